package auth

import (
	"context"
	"errors"
	"math"
	"net/netip"
	"sync"
	"time"
)

// ErrThrottled says that so many refusals of unknown secrets are being delayed
// that this one can't be.
var ErrThrottled = errors.New("too many unknown credentials")

const (
	freeFailures = 10 // are answered at once
	mostFailures = 40 // are remembered of an address
	halfLife     = time.Minute
	delayStep    = 100 * time.Millisecond // for each further failure
	longestDelay = 2 * time.Second

	// A Nix client has up to 125 requests under way at a time, and repeats what
	// is answered with 503; one with a wrong password should get to hear so.
	mostWaitingEach = 128
	mostWaiting     = 1024
	mostSuspects    = 4096
)

// Throttle slows down whoever presents unknown secrets again and again. Each
// address has ten failures free; the answer to each further one takes 100 ms
// longer, up to 2 s. Half of an address's failures are forgiven each minute.
//
// An address is one of IPv4, or a /64 of IPv6, which is what one client may have
// to itself. Memory is bounded: where there are too many addresses, it forgets
// ones that have failed little. The zero value is ready for use.
type Throttle struct {
	mu struct {
		sync.Mutex
		suspects map[netip.Prefix]*suspect
		waiting  int
	}
}

// suspect is an address that has failed.
type suspect struct {
	failures float64 // at the time of the last
	last     time.Time
	waiting  int
}

// Failed counts a failure of an address, and returns when it may be answered: at
// the latest when the context is done. If too many wait already, of that address
// or in all, it returns ErrThrottled at once.
func (t *Throttle) Failed(ctx context.Context, from netip.Addr) error {
	s, delay, err := t.count(Network(from))
	if delay == 0 || err != nil {
		return err
	}
	defer t.leave(s)
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	return nil
}

// Count counts a failure of an address that is answered at once.
func (t *Throttle) Count(from netip.Addr) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.fail(Network(from), time.Now())
}

// Suspects reports whether the next failure of an address would be delayed.
func (t *Throttle) Suspects(from netip.Addr) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.mu.suspects[Network(from)]
	return s != nil && s.at(time.Now())+1 > freeFailures
}

// Network is what is taken for one client: an address of IPv4, or a /64 of IPv6.
func Network(a netip.Addr) netip.Prefix { return network(a, 64) }

// Site is what is taken for one client where clients share something: an address
// of IPv4, or a /48 of IPv6. A site often has a /48 (RFC 6177), which is 65,536
// networks, so that by networks one site would have as many shares.
func Site(a netip.Addr) netip.Prefix { return network(a, 48) }

// network returns the address of IPv4, or the prefix of IPv6 of so many bits.
func network(a netip.Addr, bits6 int) netip.Prefix {
	a = a.Unmap().WithZone("")
	bits := bits6
	if a.Is4() {
		bits = 32
	}
	p, _ := a.Prefix(bits) // of no address: all these are one client
	return p
}

// count counts a failure, and enters those that are to wait.
func (t *Throttle) count(from netip.Prefix) (*suspect, time.Duration, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.fail(from, time.Now())
	delay := delayAfter(s.failures)
	if delay == 0 {
		return s, 0, nil
	}
	if s.waiting >= mostWaitingEach || t.mu.waiting >= mostWaiting {
		return s, delay, ErrThrottled
	}
	s.waiting++
	t.mu.waiting++
	return s, delay, nil
}

// fail adds a failure to those of an address. The caller holds the mutex.
func (t *Throttle) fail(from netip.Prefix, now time.Time) *suspect {
	s := t.mu.suspects[from]
	if s == nil {
		s = &suspect{last: now}
		t.add(from, s)
	}
	s.failures = min(s.at(now)+1, mostFailures)
	s.last = now
	return s
}

func (t *Throttle) leave(s *suspect) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s.waiting--
	t.mu.waiting--
}

// at is how many failures are not forgiven by a time.
func (s *suspect) at(now time.Time) float64 {
	return s.failures * math.Exp2(-float64(now.Sub(s.last))/float64(halfLife))
}

func delayAfter(failures float64) time.Duration {
	delay := time.Duration((failures - freeFailures) * float64(delayStep))
	return min(max(delay, 0), longestDelay)
}

// add makes room by forgetting the one that failed least of a few that chance
// picks. The caller holds the mutex.
func (t *Throttle) add(from netip.Prefix, s *suspect) {
	if t.mu.suspects == nil {
		t.mu.suspects = make(map[netip.Prefix]*suspect)
	}
	if len(t.mu.suspects) >= mostSuspects {
		delete(t.mu.suspects, t.leastSuspect(s.last))
	}
	t.mu.suspects[from] = s
}

func (t *Throttle) leastSuspect(now time.Time) (least netip.Prefix) {
	const sample = 8
	fewest, n := math.Inf(1), 0
	for prefix, s := range t.mu.suspects {
		if failures := s.at(now); failures < fewest {
			least, fewest = prefix, failures
		}
		if n++; n == sample {
			break
		}
	}
	return least
}
