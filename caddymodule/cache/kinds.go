package cache

import (
	"crypto/sha256"
	"fmt"

	"github.com/stevedores-org/nix-cache/caddymodule/nix"
	"github.com/stevedores-org/nix-cache/caddymodule/origin"
)

// kind says how one kind of file is cached.
type kind struct {
	// small is the most bytes a file of this kind can have if it is read whole
	// and kept in memory; 0 for kinds that are kept on disk only. A small
	// file's validator is taken from its bytes, a large one's from its name.
	small int64

	// mutable kinds can change at any time, behind this cache's back too, so
	// they are passed through and never kept: only that one is absent is
	// remembered. The validator of such a file is taken from the origin's.
	mutable bool
}

var kinds = map[nix.Kind]kind{
	nix.KindNARInfo:     {small: nix.MaxNARInfoSize},
	nix.KindNAR:         {},
	nix.KindListing:     {mutable: true},
	nix.KindLog:         {mutable: true},
	nix.KindRealisation: {mutable: true},
	nix.KindBuildTrace:  {mutable: true},
	nix.KindDebugInfo:   {mutable: true},
}

// contentTag is the validator of a small file: 130 bits of its SHA-256, the
// same on every node and in every tier.
func contentTag(body []byte) string {
	sum := sha256.Sum256(body)
	return tagOf(sum[:])
}

func tagOf(sum []byte) string { return nix.EncodeBase32(sum)[:26] }

// largeTag is the validator of a file that is not read whole: its name where
// that is its hash, else one for each version that the origin tells apart. In R2
// equal bytes, sent in equal parts, are one version; in a directory they are the
// same one until they are written again.
func largeTag(p nix.CachePath, info origin.Info) string {
	if kinds[p.Kind()].mutable {
		return contentTag(fmt.Appendf(nil, "%d %s", info.Size, info.ETag))
	}
	return nameTag(p)
}

// nameTag is the validator of a large file, whose name is its hash.
func nameTag(p nix.CachePath) string { return p.FileHash().Base32() }
