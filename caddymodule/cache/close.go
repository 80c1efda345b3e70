package cache

import (
	"errors"
	"maps"
	"slices"
	"sync"
)

// ErrKept says that a cache was not closed, since it is used again.
var ErrKept = errors.New("the cache is used again")

// Close ends the cache once the readers of its running fills and the uploads it
// copies are done; fills that nobody reads end at once. Objects that are open
// stay readable, and look-ups go to the origin from now on. ErrKept if Keep comes
// before that.
//
//	Close ── what is under way goes on for those who use it
//	      ── Keep: nothing has happened, but that fills end with their readers
//	      ── Cut: it doesn't go on
//	      ── nobody uses it: the tiers are closed, the directory is free
func (c *Cache) Close() error { return c.BeginClose()() }

// BeginClose is Close without its waiting, which is left to end. Keep may come
// from now on.
func (c *Cache) BeginClose() (end func() error) {
	c.mu.Lock()
	c.mu.closing = true
	kept := make(chan struct{})
	c.mu.kept = kept
	c.mu.Unlock()
	return func() error { return c.closeWhenIdle(kept) }
}

func (c *Cache) closeWhenIdle(kept chan struct{}) error {
	for _, f := range c.underWay() {
		f.abandon()
	}
	c.started.Do(func() {}) // not any more
	select {
	case <-c.work.idle():
	case <-kept:
		return ErrKept
	}
	if !c.endClose(kept) {
		return ErrKept
	}
	c.cancel()
	c.opening.Wait()
	c.setMemory(0)
	if tier := c.disk.Swap(nil); tier != nil {
		return tier.Close()
	}
	return nil
}

// endClose reports whether nobody has kept the cache since that channel was made.
// Nobody can, after that.
func (c *Cache) endClose(kept chan struct{}) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.closed = c.mu.closed || c.mu.closing && c.mu.kept == kept
	return c.mu.closed
}

// Keep takes a Close back that is still waiting; false if it is too late for that.
func (c *Cache) Keep() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.mu.closing || c.mu.closed || !c.mu.started {
		return false
	}
	c.mu.closing = false
	close(c.mu.kept)
	return true
}

// Cut ends the fills of a cache that is being closed, whoever reads them: their
// readers get an error. Uploads are for those to end who receive them.
func (c *Cache) Cut() {
	for _, f := range c.underWay() {
		f.cancel()
	}
}

// underWay returns all flights.
func (c *Cache) underWay() []*flight {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.AppendSeq(slices.Collect(maps.Values(c.mu.flights)), maps.Keys(c.mu.outdated))
}

// work counts what needs the tiers. Unlike a sync.WaitGroup it may be waited for
// in vain, and used again. Its zero value has nothing under way.
type work struct {
	mu struct {
		sync.Mutex
		count  int
		waiter chan struct{} // closed when the count becomes 0; nil if nobody waits
	}
}

func (w *work) Add(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mu.count += n
	if w.mu.count == 0 && w.mu.waiter != nil {
		close(w.mu.waiter)
		w.mu.waiter = nil
	}
}

func (w *work) Done() { w.Add(-1) }

// Go does something in a goroutine of its own.
func (w *work) Go(do func()) {
	w.Add(1)
	go func() {
		defer w.Done()
		do()
	}()
}

// idle returns a channel that is closed when nothing is under way, or has been
// for a moment.
func (w *work) idle() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.mu.waiter == nil {
		w.mu.waiter = make(chan struct{})
	}
	waiter := w.mu.waiter
	if w.mu.count == 0 {
		close(waiter)
		w.mu.waiter = nil
	}
	return waiter
}
