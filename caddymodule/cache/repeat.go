package cache

import (
	"context"
	"errors"
	"io"
	"math/bits"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/stevedores-org/nix-cache/caddymodule/nix"
)

const (
	// repeatSpan is how long it is remembered, at least, that a client has got a
	// file whole, and how often it was asked for again.
	repeatSpan = 5 * time.Minute

	// maxHashing is how many files are hashed at a time.
	maxHashing = 2
)

// errLeft says that a client has left before its file was hashed.
var errLeft = errors.New("not hashed, since the client has left")

// repeats tell which clients ask again for what they have got: the first copy may
// have been no good to them. A disk can lose bits without a trace, so the file is
// hashed before it is sent once more. Where many clients have one address, that is
// nothing unusual, so it is done for the first, the second, the fourth, the eighth
// of these requests and so on.
type repeats struct {
	delivered recent // by client and file
	asked     recent // files that were asked for again
	places    places
	hashing   singleflight.Group
}

func newRepeats() *repeats {
	return &repeats{
		delivered: recent{span: repeatSpan},
		asked:     recent{span: repeatSpan},
		places:    make(places, maxHashing),
	}
}

// Delivered notes that a client has got a file whole.
func (n *Namespace) Delivered(p nix.CachePath, client netip.Addr) {
	if client.IsValid() && n.copies(p) {
		n.cache.repeats.delivered.add(request{client, n.key(p)}.id())
	}
}

// recheck hashes an open file of the disk tier, which r reads, if this client has got it before.
func (n *Namespace) recheck(ctx context.Context, p nix.CachePath, f *os.File, r io.ReaderAt, client netip.Addr) error {
	repeats, key := n.cache.repeats, n.key(p)
	if !client.IsValid() || !repeats.delivered.has(request{client, key}.id()) {
		return nil
	}
	if bits.OnesCount32(repeats.asked.add(request{key: key}.id())) != 1 {
		return nil
	}
	for {
		_, err, _ := repeats.hashing.Do(f.Name(), func() (any, error) {
			if repeats.places.take(ctx) != nil {
				return nil, errLeft
			}
			defer repeats.places.giveBack()
			return nil, checkFile(p, r)
		})
		switch {
		case !errors.Is(err, errLeft):
			return err
		case ctx.Err() != nil:
			return nil
		}
		// The client that was to hash it for all has left: the next one does.
	}
}
