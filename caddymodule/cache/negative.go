package cache

import (
	"sync"
	"time"
)

// maxNegative bounds the entries, about 100 bytes each: strangers choose what
// is asked for.
const maxNegative = 100_000

// negative remembers what the origin said it doesn't have: for a short time to
// answer by, and on from then in case the origin can't be asked.
//
// It is a map of its own and not in ristretto, where a set comes into effect
// late: then the second of two requests would ask the origin again, and an
// entry could show up after the PUT that made it wrong.
//
// The zero value is ready for use.
type negative struct {
	mu struct {
		sync.Mutex
		until map[string]time.Time
	}
}

// has reports whether key is known to be absent.
func (n *negative) has(key string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return time.Now().Before(n.mu.until[key])
}

// had reports whether key was absent when the origin was asked last.
func (n *negative) had(key string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	_, ok := n.mu.until[key]
	return ok
}

func (n *negative) add(key string, ttl time.Duration) {
	if ttl <= 0 {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.mu.until == nil {
		n.mu.until = make(map[string]time.Time)
	}
	if len(n.mu.until) >= maxNegative {
		n.makeRoom()
	}
	n.mu.until[key] = time.Now().Add(ttl)
}

// makeRoom drops some entries, whichever the map yields first. It is called
// with the lock held.
func (n *negative) makeRoom() {
	drop := maxNegative / 100
	for key := range n.mu.until {
		if drop--; drop < 0 {
			return
		}
		delete(n.mu.until, key)
	}
}

func (n *negative) forget(key string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.mu.until, key)
}
