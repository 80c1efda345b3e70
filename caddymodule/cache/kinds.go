package cache

import (
	"crypto/sha256"

	"github.com/stevedores-org/nix-cache/caddymodule/nix"
)

// kind says how one kind of file is cached.
type kind struct {
	// small is the most bytes a file of this kind can have if it is read whole
	// and kept in memory; 0 for kinds that are kept on disk only. A small
	// file's validator is taken from its bytes, a large one's from its name.
	small int64
}

var kinds = map[nix.Kind]kind{
	nix.KindNARInfo: {small: nix.MaxNARInfoSize},
	nix.KindNAR:     {},
}

// contentTag is the validator of a small file: 130 bits of its SHA-256, the
// same on every node and in every tier.
func contentTag(body []byte) string {
	sum := sha256.Sum256(body)
	return nix.EncodeBase32(sum[:])[:26]
}

// nameTag is the validator of a large file, whose name is its hash.
func nameTag(p nix.CachePath) string { return p.FileHash().Base32() }
