package cache

import (
	"context"
	"errors"
	"io/fs"

	"github.com/stevedores-org/nix-cache/caddymodule/nix"
)

// openMutable passes a file through that may change, unless it was absent a
// moment ago.
func (n *Namespace) openMutable(ctx context.Context, p nix.CachePath) (*Object, error) {
	key := n.key(p)
	if n.cache.negative.has(key) {
		return nil, &AbsentError{Path: p.String(), Result: Negative}
	}
	forgets := n.cache.forgets.Load()
	o, err := n.openThrough(ctx, p)
	if errors.Is(err, fs.ErrNotExist) {
		n.cache.remember(key, n.policy.NegativeTTL, forgets)
	}
	return o, n.orStale(p, key, err)
}

// remembers reports whether the file's absence is remembered: not that of a NAR
// which is passed through.
func (n *Namespace) remembers(p nix.CachePath) bool {
	return kinds[p.Kind()].mutable || !n.passes(p)
}
