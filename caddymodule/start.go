package caddymodule

import (
	"fmt"

	"github.com/dustin/go-humanize"

	"github.com/stevedores-org/nix-cache/caddymodule/auth"
)

// logStart says in a line what the config makes of the cache, so that a slip in it
// can be seen.
func (h *Handler) logStart() {
	s := h.set
	h.log.Info("serving a Nix binary cache",
		"origin", h.origin.String(),
		"memory", sizeOrOff(s.memory),
		"disk", s.diskText(),
		"private", h.Private,
		"uploads", s.authorities.Any(auth.Upload),
		"deletions", s.authorities.Any(auth.Delete),
		"trusted_public_keys", s.trustedKeys.Len(),
		"sign_with", keyNames(s.signWith),
		"verify_reads", h.VerifyReads,
	)
}

func sizeOrOff(n int64) string {
	if n == 0 {
		return "off"
	}
	return humanize.IBytes(uint64(n))
}

func (s settings) diskText() string {
	switch {
	case s.origin.local():
		return "off, since the origin is local"
	case s.diskPath == "":
		return "off"
	default:
		return fmt.Sprintf("%s, %s, %s left free", s.diskPath, humanize.IBytes(uint64(s.disk.Bytes)), humanize.IBytes(uint64(s.disk.MinFree)))
	}
}
