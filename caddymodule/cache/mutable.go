package cache

import (
	"context"

	"github.com/stevedores-org/nix-cache/caddymodule/nix"
)

// openMutable passes a file through that may change, unless it was absent a
// moment ago.
func (n *Namespace) openMutable(ctx context.Context, p nix.CachePath, want Wanted) (*Object, error) {
	key := n.key(p)
	if n.cache.negative.has(key) {
		return nil, &AbsentError{Path: p.String(), Result: Negative}
	}
	return n.openUnstored(ctx, p, want)
}

// remembers reports whether the file's absence is remembered: not that of a NAR
// which is passed through.
func (n *Namespace) remembers(p nix.CachePath) bool {
	return kinds[p.Kind()].mutable || !n.passes(p)
}
