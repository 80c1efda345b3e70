#!/usr/bin/env bash
# The one test command: installs what the tests need, runs them and counts them.
#
#   integration/run.sh [all|unit|integration|soak|fuzz] [go test arguments]
#
#   all          (default) unit and integration
#   unit         the packages on their own, with the race detector and the fuzz seeds; gofmt, vet, imports
#   integration  real Caddy, real Nix clients, a real S3 server
#   soak         a mixed load on real Caddy for SOAK (default 10m; in the others 1m)
#   fuzz         every fuzz target for FUZZTIME (default 10s)
#
# Needs root on Debian (apt, mount namespaces) and Go. Everything that is not a
# package goes to ${XDG_CACHE_HOME:-$HOME/.cache}/nix-cache-test, once.
set -euo pipefail

unset CDPATH
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. integration/install.sh

# Programs with the race detector would sleep for a second before they end.
export GORACE=atexit_sleep_ms=0

# The C compiler is for the race detector, curl and jq for snippets of the README,
# btrfs for a disk that fails: it notices.
packages=(btrfs-progs ca-certificates curl e2fsprogs gcc git jq libc6-dev mmdebstrap nix-bin)

die() {
	printf 'run.sh: %s\n0 passed, 1 failed\n' "$1"
	exit 1
}

check_machine() {
	local missing
	command -v go >/dev/null || die "Go is missing: install it from https://go.dev/dl"
	command -v dpkg-query >/dev/null || die "this is not Debian: apt and mmdebstrap are needed for the Nix clients"
	[ "$(id -u)" = 0 ] && return
	missing=$(missing_packages | tr '\n' ' ')
	die "needs root, for mount namespaces${missing:+ and to install: $missing}"
}

# The mirror this machine already uses, or Debian's own.
debian_mirror() {
	local mirror
	mirror=$(apt-get indextargets --format '$(ORIGIN) $(REPO_URI)' |
		awk '$1 == "Debian" && $2 !~ /security/ { print $2; exit }')
	echo "${mirror:-http://deb.debian.org/debian}"
}

# Debian sid has a Nix of today; it lives in a tree of its own.
install_sid() {
	export NIX_SID_ROOT=$cache/sid
	[ -x "$NIX_SID_ROOT/usr/bin/nix" ] && return
	echo "installing Nix from Debian sid"
	rm -rf "$NIX_SID_ROOT.new"
	mmdebstrap --quiet --variant=essential --include=nix-bin,ca-certificates \
		--aptopt='Acquire::Check-Valid-Until "false"' \
		sid "$NIX_SID_ROOT.new" "$(debian_mirror)" ||
		die "mmdebstrap could not install Nix from Debian sid"
	mv "$NIX_SID_ROOT.new" "$NIX_SID_ROOT"
}

build_caddy() {
	export CADDY=$work/caddy CADDY_RACE=$work/caddy-race
	echo "building Caddy"
	go build -o "$CADDY" ./cmd/caddy && go build -race -o "$CADDY_RACE" ./cmd/caddy ||
		die "go could not build ./cmd/caddy"
}

prepare() {
	check_machine
	mkdir -p "$cache"
	install_packages
	go build -o "$work/testsummary" ./integration/internal/testsummary || die "go could not build testsummary"
}

unit_packages() { go list ./... | grep -v '/integration$'; }

# Its failure may be one that no test tells, such as a go.mod that doesn't parse.
go_test() { go test -json "$@" || echo '{"Action":"go-test-failed"}'; }

unit() {
	# shellcheck disable=SC2046 # a list of import paths
	go_test -race -timeout 10m "$@" $(unit_packages)
}

# Most of what runs in parallel there waits: for time-outs, for Nix, for processes to start.
integration() { go_test -race -count=1 -parallel 8 -timeout 45m "$@" ./integration; }

soak() { SOAK=${SOAK:-10m} go_test -race -count=1 -timeout 0 -run '^TestSoak$' "$@" ./integration; }

fuzz() {
	local package target
	for package in $(unit_packages); do
		for target in $(go test -list '^Fuzz' "$package" | grep '^Fuzz'); do
			go_test -run '^$' -fuzz "^$target\$" -fuzztime "${FUZZTIME:-10s}" "$package"
		done
	done
}

install_world() {
	install_versitygw
	install_sid
	build_caddy
}

install_soak() {
	install_versitygw
	build_caddy
}

main() {
	local what=${1:-all}
	[ $# = 0 ] || shift
	work=$(mktemp -d)
	trap 'rm -rf "$work"' EXIT
	case $what in
	unit) prepare; unit "$@" | "$work/testsummary" ;;
	integration) prepare; install_world; integration "$@" | "$work/testsummary" ;;
	soak) prepare; install_soak; soak "$@" | "$work/testsummary" ;;
	all) prepare; install_world; { unit "$@"; integration "$@"; } | "$work/testsummary" ;;
	fuzz) prepare; fuzz | "$work/testsummary" ;;
	*) die "unknown subcommand $what: use all, unit, integration, soak or fuzz" ;;
	esac
}

main "$@" </dev/null
