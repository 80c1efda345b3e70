#!/usr/bin/env bash
# Builds ./caddy with xcaddy from this checkout's module and the Caddy version in go.mod.
# Further arguments go to `xcaddy build`: ./xcaddy.sh --with github.com/caddy-dns/cloudflare --output /usr/local/bin/caddy
set -euo pipefail

xcaddy_version=v0.4.5
module=github.com/stevedores-org/nix-cache
checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
caddy_version=$(cd "$checkout" && go list -m -f '{{.Version}}' github.com/caddyserver/caddy/v2)

tools=$(mktemp -d)
trap 'rm -rf "$tools"' EXIT

# Built in a module of its own: `go install xcaddy@version` asks for the list
# of all its versions, which some module proxies don't give.
cat >"$tools/go.mod" <<MOD
module tools
require github.com/caddyserver/xcaddy $xcaddy_version
MOD
(cd "$tools" && GOFLAGS="${GOFLAGS:-} -mod=mod" go build -o xcaddy github.com/caddyserver/xcaddy/cmd/xcaddy)

# A package that is not a module's root can't be given by --with and a folder
# without a look for published versions of it; a module that imports it can.
mkdir "$tools/plugin"
cat >"$tools/plugin/go.mod" <<MOD
module plugin.local
require $module v0.0.0
MOD
printf 'package plugin\n\nimport _ "%s/caddymodule"\n' "$module" >"$tools/plugin/plugin.go"

"$tools/xcaddy" build "$caddy_version" \
	--with "plugin.local@v0.0.0=$tools/plugin" --replace "$module=$checkout" "$@"
