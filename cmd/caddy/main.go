// Command caddy is Caddy with its standard modules and the nix_cache handler.
package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/stevedores-org/nix-cache/caddymodule"
)

func main() {
	caddycmd.Main()
}
