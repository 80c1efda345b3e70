#!/usr/bin/env bash
# Measures the cache side by side with others, and writes what it finds into
# README.md, between the two comments that name it.
#
#   integration/bench.sh [-full] [-only <group>,…] [-dry]
#
#   -full   more rounds, longer ones, and all that the memory test reads
#   -only   some groups of rows: narinfo, nar, tls, cold, herd, operations, push, memory
#   -dry    print the section, leave README.md as it is
#
# Needs root on Debian (apt), Go and two cores: servers run on one, what loads
# them on the other. Takes some five minutes once everything is installed.
set -euo pipefail

unset CDPATH
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. integration/install.sh

packages=(ca-certificates gcc libc6-dev nginx strace util-linux varnish)

die() {
	printf 'bench.sh: %s\n' "$1" >&2
	exit 1
}

check_machine() {
	command -v go >/dev/null || die "Go is missing: install it from https://go.dev/dl"
	command -v dpkg-query >/dev/null || die "this is not Debian: apt is needed for nginx and Varnish"
	[ "$(nproc)" -ge 2 ] || die "one core is too few: give the machine two"
	[ "$(id -u)" = 0 ] || die "needs root, to trace system calls and to install packages"
}

# Debian starts the services of a package that it installs, unless policy-rc.d
# says not to: https://people.debian.org/~hmh/invokerc.d-policyrc.d-specification.txt
install_quietly() {
	local policy=/usr/sbin/policy-rc.d
	[ -e "$policy" ] || {
		printf '#!/bin/sh\nexit 101\n' >"$policy"
		chmod +x "$policy"
		made_policy=$policy
	}
	install_packages
	clean_policy
}

clean_policy() {
	[ -z "${made_policy:-}" ] || rm -f "$made_policy"
	made_policy=
}

main() {
	check_machine
	work=$(mktemp -d)
	trap 'rm -rf "$work"; clean_policy' EXIT
	install_quietly
	install_versitygw
	echo "building Caddy"
	export CADDY=$work/caddy
	go build -o "$CADDY" ./cmd/caddy && go build -o "$work/bench" ./integration/bench ||
		die "go could not build ./cmd/caddy and ./integration/bench"
	taskset -c 1 "$work/bench" -dir "$work" "$@"
}

main "$@" </dev/null
