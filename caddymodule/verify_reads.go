package caddymodule

import (
	"fmt"

	"github.com/stevedores-org/nix-cache/caddymodule/nix"
)

// verifyRead, as a cache.Verification, holds what the origin has to what an upload
// is held to, as far as the file shows it by itself.
func (h *Handler) verifyRead(p nix.CachePath, body []byte) error {
	if p.Kind() != nix.KindNARInfo {
		return nil
	}
	n, err := nix.ParseNARInfo(body)
	if err != nil {
		return err
	}
	if nix.NARInfoPath(n.StorePath) != p {
		return fmt.Errorf("it is the narinfo of %s", n.StorePath)
	}
	_, err = h.set.trustedKeys.Verify(n)
	return err
}
