package cache

import (
	"hash/maphash"
	"net/netip"
	"sync"
	"time"
)

// maxRecent bounds each of a recent's two halves, which have some 16 bytes an
// entry.
const maxRecent = 1 << 16

var recentSeed = maphash.MakeSeed()

// recent remembers what was added for span at least, and twice that at most; less
// if more than maxRecent come.
type recent struct {
	span time.Duration
	mu   struct {
		sync.Mutex
		now, before map[uint64]struct{}
		turned      time.Time
	}
}

// request is a file that a client asks for.
type request struct {
	client netip.Addr
	key    string
}

func (r request) id() uint64 { return maphash.Comparable(recentSeed, r) }

// add remembers an id, and reports whether it was known.
func (r *recent) add(id uint64) (known bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	known = r.knows(id)
	if len(r.mu.now) >= maxRecent {
		r.turn()
	}
	r.mu.now[id] = struct{}{}
	return known
}

func (r *recent) has(id uint64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.knows(id)
}

// knows is called with the lock held.
func (r *recent) knows(id uint64) bool {
	switch age := time.Since(r.mu.turned); {
	case age >= 2*r.span:
		r.turn()
		r.turn()
	case age >= r.span:
		r.turn()
	}
	_, now := r.mu.now[id]
	_, before := r.mu.before[id]
	return now || before
}

// turn is called with the lock held.
func (r *recent) turn() {
	r.mu.before, r.mu.now = r.mu.now, make(map[uint64]struct{})
	r.mu.turned = time.Now()
}
