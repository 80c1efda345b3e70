# What run.sh and bench.sh both need: sourced, with `packages` set to the Debian
# packages that the script needs.
# shellcheck shell=bash

export HOME=${HOME:-/root} LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive
export GOFLAGS="${GOFLAGS:-} -buildvcs=false"

cache=${XDG_CACHE_HOME:-$HOME/.cache}/nix-cache-test

versitygw_version=v1.8.0

missing_packages() {
	local p
	for p in "${packages[@]}"; do
		dpkg-query -W -f '${db:Status-Status}\n' "$p" 2>/dev/null | grep -qx installed || echo "$p"
	done
}

install_packages() {
	local missing
	mapfile -t missing < <(missing_packages)
	[ ${#missing[@]} = 0 ] && return
	echo "installing ${missing[*]}"
	apt-get update -qq && apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null ||
		die "apt could not install ${missing[*]}"
}

install_versitygw() {
	export VERSITYGW=$cache/versitygw-$versitygw_version
	[ -x "$VERSITYGW" ] && return
	echo "building versitygw $versitygw_version"
	mkdir -p "$cache"
	GOBIN=$cache/gobin go install "github.com/versity/versitygw/cmd/versitygw@$versitygw_version" ||
		die "go could not build versitygw $versitygw_version"
	mv "$cache/gobin/versitygw" "$VERSITYGW"
}
