// Package fair shares places between holders, such as the tokens that uploads come
// by: a place that is free goes to who has the fewest, and among equals to who has
// waited longest. No holder can have them all.
package fair

import (
	"context"
	"errors"
	"slices"
	"sync"
)

// ErrFull says that too many wait for a place already.
var ErrFull = errors.New("too many wait for a place")

// Bounds are how many there may be.
type Bounds struct {
	Places  int // at a time, of all holders
	Each    int // at a time, of one holder
	Waiting int // for a place, of all holders; one may have as much of it as of the places
}

// Places are places to share. All methods may be called concurrently.
type Places struct {
	bounds Bounds
	mu     struct {
		sync.Mutex
		taken   int
		held    map[string]int // by holder
		waiting []*waiter      // the first has waited longest
	}
}

// New returns places that nobody has yet.
func New(bounds Bounds) *Places {
	p := &Places{bounds: bounds}
	p.mu.held = make(map[string]int)
	return p
}

// waiter waits for turn to be closed: then it has its place.
type waiter struct {
	holder string
	turn   chan struct{}
}

// Take waits for a place until the context ends, whose error it returns then. It
// fails with ErrFull at once. The caller gives the place back once.
func (p *Places) Take(ctx context.Context, holder string) (giveBack func(), err error) {
	w, err := p.enter(holder)
	if err != nil {
		return nil, err
	}
	select {
	case <-w.turn:
	case <-ctx.Done():
		p.leave(w)
		return nil, ctx.Err()
	}
	return func() { p.giveBack(holder) }, nil
}

// enter returns a waiter, whose turn it may be already.
func (p *Places) enter(holder string) (*waiter, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	w := &waiter{holder, make(chan struct{})}
	if p.free(holder) {
		p.give(w)
		return w, nil
	}
	if p.full(holder) {
		return nil, ErrFull
	}
	p.mu.waiting = append(p.mu.waiting, w)
	return w, nil
}

// free reports whether a holder may have one more. Where it is so, nobody waits
// who may have one, too. This and those below are called with the lock held.
func (p *Places) free(holder string) bool {
	return p.mu.taken < p.bounds.Places && p.mu.held[holder] < p.bounds.Each
}

func (p *Places) full(holder string) bool {
	own := 0
	for _, w := range p.mu.waiting {
		if w.holder == holder {
			own++
		}
	}
	return len(p.mu.waiting) >= p.bounds.Waiting || own >= p.bounds.Waiting*p.bounds.Each/p.bounds.Places
}

func (p *Places) give(w *waiter) {
	p.mu.taken++
	p.mu.held[w.holder]++
	close(w.turn)
}

// leave ends a wait. The turn may have come just then.
func (p *Places) leave(w *waiter) {
	p.mu.Lock()
	i := slices.Index(p.mu.waiting, w)
	if i >= 0 {
		p.mu.waiting = slices.Delete(p.mu.waiting, i, i+1)
	}
	p.mu.Unlock()
	if i < 0 {
		p.giveBack(w.holder)
	}
}

func (p *Places) giveBack(holder string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mu.taken--
	if p.mu.held[holder]--; p.mu.held[holder] == 0 {
		delete(p.mu.held, holder)
	}
	if i := p.next(); i >= 0 {
		p.give(p.mu.waiting[i])
		p.mu.waiting = slices.Delete(p.mu.waiting, i, i+1)
	}
}

// next is whose turn it is; -1 if nobody who waits may have one more.
func (p *Places) next() int {
	best := -1
	for i, w := range p.mu.waiting {
		if p.free(w.holder) && (best < 0 || p.mu.held[w.holder] < p.mu.held[p.mu.waiting[best].holder]) {
			best = i
		}
	}
	return best
}
