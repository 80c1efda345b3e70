package cache

import (
	"hash/maphash"
	"net/netip"
	"sync"
	"time"
)

// maxRecent bounds each of a recent's two halves, which have some 20 bytes an
// entry.
const maxRecent = 1 << 16

var recentSeed = maphash.MakeSeed()

// recent counts what was added. It remembers for span at least, and twice that at most; less
// if more than maxRecent come.
type recent struct {
	span time.Duration
	mu   struct {
		sync.Mutex
		now, before map[uint64]uint32
		turned      time.Time
	}
}

// request is a file that a client asks for.
type request struct {
	client netip.Addr
	key    string
}

func (r request) id() uint64 { return maphash.Comparable(recentSeed, r) }

// add counts an id, and returns how often that has been done, this time included.
func (r *recent) add(id uint64) (times uint32) {
	r.mu.Lock()
	defer r.mu.Unlock()
	times = r.times(id) + 1
	if len(r.mu.now) >= maxRecent {
		r.turn()
	}
	r.mu.now[id]++
	return times
}

func (r *recent) has(id uint64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.times(id) > 0
}

// times is called with the lock held.
func (r *recent) times(id uint64) uint32 {
	switch age := time.Since(r.mu.turned); {
	case age >= 2*r.span:
		r.turn()
		r.turn()
	case age >= r.span:
		r.turn()
	}
	return r.mu.now[id] + r.mu.before[id]
}

// turn is called with the lock held.
func (r *recent) turn() {
	r.mu.before, r.mu.now = r.mu.now, make(map[uint64]uint32)
	r.mu.turned = time.Now()
}
