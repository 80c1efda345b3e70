package cache

import (
	"context"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/stevedores-org/nix-cache/caddymodule/nix"
)

const (
	// repeatSpan is how long it is remembered, at least, that a client has got a
	// file whole, and that a file has been hashed since.
	repeatSpan = 5 * time.Minute

	// maxHashing is how many files are hashed at a time.
	maxHashing = 2
)

// repeats tell which clients ask again for what they have got: the first copy may
// have been no good to them. A disk can lose bits without a trace, so the file is
// hashed before it is sent once more, but not more often than about once in
// repeatSpan.
type repeats struct {
	delivered recent
	hashed    recent
	places    places
	hashing   singleflight.Group
}

func newRepeats() *repeats {
	return &repeats{
		delivered: recent{span: repeatSpan},
		hashed:    recent{span: repeatSpan},
		places:    make(places, maxHashing),
	}
}

// Delivered notes that a client has got a file whole.
func (n *Namespace) Delivered(p nix.CachePath, client netip.Addr) {
	if client.IsValid() && n.copies(p) {
		n.cache.repeats.delivered.add(request{client, n.key(p)}.id())
	}
}

// recheck hashes an open file of the disk tier if this client has got it before.
func (n *Namespace) recheck(ctx context.Context, p nix.CachePath, f *os.File, client netip.Addr) error {
	r, key := n.cache.repeats, n.key(p)
	if !client.IsValid() || !r.delivered.has(request{client, key}.id()) {
		return nil
	}
	_, err, _ := r.hashing.Do(f.Name(), func() (any, error) {
		id := request{key: key}.id()
		if r.hashed.has(id) {
			return nil, nil
		}
		if err := r.places.take(ctx); err != nil {
			return nil, nil // the client has gone
		}
		defer r.places.giveBack()
		err := checkFile(p, f)
		if err == nil {
			r.hashed.add(id)
		}
		return nil, err
	})
	return err
}
