package cache

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"time"

	"github.com/stevedores-org/nix-cache/caddymodule/nix"
	"github.com/stevedores-org/nix-cache/caddymodule/origin"
)

// little is the most that is read from the origin just as it is asked for.
// Who wants some of the same file within littleSpan has all of it fetched.
const (
	little     = 1 << 20
	littleSpan = time.Minute
)

// isLittle reports whether so little is wanted of a large file that a fill would
// bring too much: for now, since who asks once more, or somebody else, may want
// all of it.
func (n *Namespace) isLittle(p nix.CachePath, key string, want Wanted) bool {
	if kinds[p.Kind()].small > 0 || want.Length == 0 || want.Length > little || n.cache.inFlight(key) {
		return false
	}
	return n.cache.littles.add(request{key: key}.id()) == 1
}

// passThrough opens a file at the origin without storing it.
func (n *Namespace) passThrough(ctx context.Context, p nix.CachePath, want Wanted) (*Object, error) {
	if kinds[p.Kind()].small > 0 {
		s, err := n.readSmall(ctx, p)
		if err != nil {
			return nil, err
		}
		return memoryObject(s, Bypass), nil
	}
	o, err := n.openThrough(ctx, p, want)
	if err == nil {
		n.counters.bypassed.Add(1)
	}
	return o, err
}

// openUnstored opens a file at the origin that is not stored, and remembers if it
// is absent.
func (n *Namespace) openUnstored(ctx context.Context, p nix.CachePath, want Wanted) (*Object, error) {
	key := n.key(p)
	forgets := n.cache.forgets.Load()
	o, err := n.openThrough(ctx, p, want)
	if errors.Is(err, fs.ErrNotExist) {
		n.cache.remember(key, n.policy.NegativeTTL, forgets)
	}
	return o, n.orStale(p, key, err)
}

// openThrough opens a large file at the origin by one operation that brings what
// is wanted.
func (n *Namespace) openThrough(ctx context.Context, p nix.CachePath, want Wanted) (*Object, error) {
	if err := n.cache.damage.of(n.key(p)); err != nil {
		return nil, err
	}
	w := n.cache.damage.watch(n.key(p))
	o, err := n.openWatched(ctx, p, want, w)
	if err == nil {
		if _, watched := o.Body.(*originReader); watched {
			return o, nil
		}
	}
	n.cache.damage.end(w)
	return o, err
}

// openWatched is openThrough, but for the watch, which is the reader's where the
// object has one.
func (n *Namespace) openWatched(ctx context.Context, p nix.CachePath, want Wanted, w *watch) (*Object, error) {
	if n.local() { // the file itself is wanted, for the kernel to read from
		want = Wanted{}
	}
	info, body, err := n.origin.Open(ctx, p.String(), origin.OpenOptions{Offset: want.Offset, Length: want.Length})
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &AbsentError{Path: p.String(), Result: Bypass}
	}
	if err != nil {
		return nil, err
	}
	n.found(p)
	if err := checkEmpty(p, info.Size); err != nil {
		body.Close()
		n.foundDamaged(p, w, err)
		return nil, err
	}
	seen := Info{Size: info.Size, Tag: largeTag(p, info)}
	if f, ok := body.(*os.File); ok {
		return fileObject(f, f.Close, seen, Bypass), nil
	}
	r := newOriginReader(ctx, n, p, info, w)
	r.begin(body, want)
	return &Object{Info: seen, Result: Bypass, Body: r, close: r.Close}, nil
}
