package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"time"

	"github.com/stevedores-org/nix-cache/caddymodule/cache/disk"
	"github.com/stevedores-org/nix-cache/caddymodule/nix"
	"github.com/stevedores-org/nix-cache/caddymodule/origin"
)

// flight is one trip to the origin, for all who ask for that file meanwhile.
//
//	join ── the request waits for its turn at the origin
//	     ── it is sent
//	     ── ready closed: the answer is known, its waiters go on
//	     ── a fill goes on behind it, followed by its readers
//	     ── stored in the tiers
//	     ── landed: look-ups find it in the tiers
//
// When its last waiter leaves before it is ready, it is deserted. If its request
// has not been sent, that ends it by errDeserted: who has joined in between begins
// a new one. If it has been sent, the flight goes on, since what it costs has been
// spent. There are no more of those than the origin takes requests; fills that
// nobody reads are bounded by maxUnread.
type flight struct {
	ready  chan struct{}
	landed chan struct{}     // closed when look-ups find its file in the tiers, or not at all
	gone   chan struct{}     // closed when it is deserted
	joined chan netip.Prefix // of a client beside the one that began it
	cancel context.CancelFunc

	// The answer, set before ready is closed: one of the three.
	err   error
	small *small
	fill  *fill

	publishing bool // it brings nothing itself: its file is about to be in the tier

	// Guarded by Cache.mu.
	waiters   int  // have joined and not left
	deserted  bool // has had none
	forgotten bool // what it brings must not be stored
}

var (
	errLanded      = errors.New("fill has landed")
	errNotStorable = errors.New("file can't be stored")
	errDeserted    = errors.New("flight was deserted before it was sent")
)

// wait returns once the answer is known, or leaves when the context ends.
func (c *Cache) wait(ctx context.Context, f *flight) error {
	select {
	case <-f.ready:
		return nil
	case <-ctx.Done():
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	f.waiters--
	if f.waiters == 0 && !f.deserted {
		f.deserted = true
		close(f.gone)
	}
	return ctx.Err()
}

// awaitLanding waits for a flight whose fill can't be followed any more: until then
// look-ups would find the flight again.
func (f *flight) awaitLanding(ctx context.Context) error {
	select {
	case <-f.landed:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// join returns the flight for key, beginning one if there is none, on behalf of
// who does so. nil if a flight has landed since the caller looked at the tiers:
// what it brought may be what the caller missed.
func (n *Namespace) join(ctx context.Context, p nix.CachePath, key string, landed uint64) (*flight, Result) {
	c := n.cache
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.closing { // what is under way may have been given up
		f := &flight{ready: make(chan struct{}), err: errNotStorable}
		close(f.ready)
		return f, Bypass
	}
	if f := c.mu.flights[key]; f != nil {
		f.waiters++
		select {
		case f.joined <- origin.AskerOf(ctx).Client:
		default: // another one has joined just now
		}
		return f, Collapsed
	}
	if c.landed.Load() != landed {
		return nil, Miss
	}
	asker := origin.Asker{Client: origin.AskerOf(ctx).Client}
	ctx, cancel := context.WithCancel(origin.WithAsker(context.Background(), asker))
	f := newFlight(cancel)
	f.waiters = 1
	c.mu.flights[key] = f
	c.work.Go(func() {
		defer cancel()
		defer c.land(key, f)
		if kinds[p.Kind()].small > 0 {
			n.fetchSmall(ctx, f, p, key)
		} else {
			n.fetchLarge(ctx, f, p, key)
		}
	})
	return f, Miss
}

func newFlight(cancel context.CancelFunc) *flight {
	return &flight{
		ready:  make(chan struct{}),
		landed: make(chan struct{}),
		gone:   make(chan struct{}),
		joined: make(chan netip.Prefix, 1),
		cancel: cancel,
	}
}

// asking returns the context for the flight's first request: which need not be sent
// once the flight is deserted, and is on behalf of all who join it.
func (f *flight) asking(ctx context.Context) context.Context {
	asker := origin.AskerOf(ctx)
	asker.Gone, asker.Joined = f.gone, f.joined
	return origin.WithAsker(ctx, asker)
}

// open gives a waiter its own object. errLanded if the fill came and went
// while the waiter was on its way.
func (f *flight) open(ctx context.Context, result Result) (*Object, error) {
	var absent *AbsentError
	switch {
	case errors.As(f.err, &absent) && absent.Result != Stale:
		return nil, &AbsentError{Path: absent.Path, Result: result}
	case f.err != nil:
		return nil, f.err
	case f.small != nil:
		return memoryObject(f.small, result), nil
	}
	r, ok := f.fill.follow(ctx)
	if !ok {
		return nil, errLanded
	}
	return &Object{Info: f.fill.info, Result: result, Body: r, close: r.Close}, nil
}

// abandon ends the flight once nobody follows it.
func (f *flight) abandon() {
	if !f.leaveToReaders() {
		f.cancel()
	}
}

// leaveToReaders is abandon for a flight that may have others waiting: it leaves
// alone one without a fill, which ends soon, and one that doesn't know its answer
// yet and has to call it when it does.
func (f *flight) leaveToReaders() bool {
	select {
	case <-f.ready:
	default:
		return false
	}
	if f.fill == nil {
		return false
	}
	f.fill.abandon()
	return true
}

// smallTimeout bounds the fetching of a small file, whoever waits for it.
const smallTimeout = 30 * time.Second

func (n *Namespace) fetchSmall(ctx context.Context, f *flight, p nix.CachePath, key string) {
	ctx, cancel := context.WithTimeout(f.asking(ctx), smallTimeout)
	defer cancel()
	s, err := n.readSmall(ctx, p)
	if err != nil {
		n.refuse(f, p, key, err)
		return
	}
	f.small = s
	close(f.ready)
	n.cache.unlessForgotten(f, func() { n.cache.memory.set(key, f.small) })
	if !n.local() {
		n.storeSmall(f, p, key)
	}
	n.cache.memory.settle()
}

// maxSmallBreaks is how often the body of a small file may break off.
const maxSmallBreaks = 2

// readSmall reads a small file whole from the origin, and anew where its body
// breaks off.
func (n *Namespace) readSmall(ctx context.Context, p nix.CachePath) (*small, error) {
	for breaks := 0; ; breaks++ {
		s, err := n.readSmallOnce(ctx, p)
		var broke *brokenBodyError
		if !asBroken(err, &broke) {
			return s, err
		}
		if breaks >= maxSmallBreaks {
			return nil, unavailable(p, broke.err)
		}
		if err := pause(ctx, breakDelay<<breaks); err != nil {
			return nil, unavailable(p, err)
		}
	}
}

func (n *Namespace) readSmallOnce(ctx context.Context, p nix.CachePath) (*small, error) {
	limit := kinds[p.Kind()].small
	info, body, err := n.origin.Open(ctx, p.String(), origin.OpenOptions{})
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &AbsentError{Path: p.String(), Result: Miss}
	}
	if err != nil {
		return nil, err
	}
	n.found(p)
	defer body.Close()
	if info.Size > limit {
		return nil, &DamagedError{p.String(), fmt.Sprintf("origin's copy has %d bytes, more than the %d of the largest %s", info.Size, limit, p.Kind())}
	}
	b := make([]byte, info.Size)
	if _, err := io.ReadFull(body, b); err != nil {
		return nil, &brokenBodyError{err}
	}
	s, err := n.accepted(p, &small{body: b, tag: contentTag(b)})
	if err != nil {
		return nil, n.refusal(p, err)
	}
	return s, nil
}

// unavailable is the error for a body that broke.
func unavailable(p nix.CachePath, err error) error {
	var already *origin.UnavailableError
	if errors.As(err, &already) || errors.Is(err, context.Canceled) {
		return err
	}
	timeout := errors.Is(err, context.DeadlineExceeded)
	return &origin.UnavailableError{Op: "read", Path: p.String(), Timeout: timeout, Err: err}
}

// storeSmall writes a small file to the disk tier.
func (n *Namespace) storeSmall(f *flight, p nix.CachePath, key string) {
	tier := n.cache.tier()
	if tier == nil {
		return
	}
	n.cache.storing <- struct{}{}
	defer func() { <-n.cache.storing }()
	file, err := tier.Create(key, int64(len(f.small.body)))
	if err == nil {
		defer file.Close()
		defer file.Abort()
		if _, err = file.WriteAt(f.small.body, 0); err == nil {
			err = file.Commit(f.small.tag, n.cache.admit(f))
		}
	}
	if err != nil {
		n.log.Warn("not stored on disk", "path", p.String(), "error", err)
	}
}

// fetchLarge fills a large file. The first range read brings the size, the
// origin's validator and the first bytes in one operation.
func (n *Namespace) fetchLarge(ctx context.Context, f *flight, p nix.CachePath, key string) {
	w := n.cache.damage.watch(key)
	defer n.cache.damage.end(w)
	first := min(firstPart, n.policy.PartSize)
	info, body, err := n.origin.Open(f.asking(ctx), p.String(), origin.OpenOptions{Length: first})
	if err != nil {
		n.refuse(f, p, key, err)
		return
	}
	n.found(p)
	if err := checkEmpty(p, info.Size); err != nil {
		body.Close()
		n.count(w, p, err, Fill{})
		n.refuse(f, p, key, err)
		return
	}
	file, err := n.cache.create(key, info.Size)
	if err != nil {
		body.Close()
		n.logNotStored(p, info.Size, err)
		n.refuse(f, p, key, errNotStorable)
		return
	}
	f.fill = newFill(n, p, info, file, first, f.cancel)
	close(f.ready)
	if !n.cache.admit(f)() {
		f.leaveToReaders()
	}
	if n.cache.deserted(f) {
		f.fill.desert()
	}

	n.counters.InFlight.Add(1)
	defer n.counters.InFlight.Add(-1)
	begun := time.Now()
	err = f.fill.run(ctx, body)
	if err == nil {
		err = file.Commit("", n.cache.admit(f))
	}
	if err != nil && ctx.Err() != nil {
		n.log.Info("fill given up: nobody reads it, or the cache is being closed", "path", p.String())
	} else {
		n.count(w, p, err, Fill{Bytes: f.fill.received(), Duration: time.Since(begun)})
	}
	f.fill.end(err)
}

// logNotStored says why a large file is passed through. That the tier is too small
// is told once: what it takes to mend that is the same for all such files.
func (n *Namespace) logNotStored(p nix.CachePath, size int64, err error) {
	log := n.log.With("path", p.String(), "bytes", size, "error", err)
	var small *disk.TooSmallError
	if !errors.As(err, &small) {
		log.Warn("passed through, not stored")
		return
	}
	if n.cache.toldSmall.Swap(small.Limit) != small.Limit {
		log.Warn("the disk tier is too small for this file: each read of it, and of others like it, costs a request to the origin; set disk to several times the size of the largest NARs")
	}
}

// refuse ends a flight that brings nothing.
func (n *Namespace) refuse(f *flight, p nix.CachePath, key string, err error) {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = &AbsentError{Path: p.String(), Result: Miss}
		n.cache.unlessForgotten(f, func() { n.cache.negative.add(key, n.policy.NegativeTTL) })
	case errors.Is(err, origin.ErrUnwanted):
		err = errDeserted
		n.cache.leaveOut(key, f) // who comes back finds no flight, or the next one
	}
	f.err = n.orStale(p, key, err)
	close(f.ready)
}

// found forgets that a file was missing, since the origin has it: an outage would
// bring that back.
func (n *Namespace) found(p nix.CachePath) { n.cache.negative.forget(n.key(p)) }

// orStale puts an absence that was known once in place of an outage, or of a
// crowd: nothing better is known, and clients go on where an error would end their build.
func (n *Namespace) orStale(p nix.CachePath, key string, err error) error {
	var unavailable *origin.UnavailableError
	var busy *origin.BusyError
	if (errors.As(err, &unavailable) || errors.As(err, &busy)) && n.cache.negative.had(key) {
		return &AbsentError{Path: p.String(), Result: Stale}
	}
	return err
}

// count notes how a fill ended.
func (n *Namespace) count(w *watch, p nix.CachePath, err error, fill Fill) {
	switch {
	case err == nil:
		n.counters.stored.Add(1)
		fill.Outcome = "stored"
	case isDamage(err):
		n.foundDamaged(p, w, err)
		fill.Outcome = "mismatch"
	default:
		n.counters.failed.Add(1)
		n.log.Error("fill failed: nothing stored", "path", p.String(), "error", err)
		fill.Outcome = "failed"
	}
	if n.counters.Observe != nil {
		n.counters.Observe(fill)
	}
}

// admit tells the disk tier whether what the flight brought is still wanted.
func (c *Cache) admit(f *flight) func() bool {
	return func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return !f.forgotten
	}
}

// unlessForgotten does a quick thing that Forget either prevents or sees.
func (c *Cache) unlessForgotten(f *flight, do func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !f.forgotten {
		do()
	}
}

// land ends a flight: from here on its file is looked for in the tiers.
func (c *Cache) land(key string, f *flight) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.landed.Add(1)
	delete(c.mu.outdated, f)
	c.leaveOutLocked(key, f)
	close(f.landed)
}

// leaveOut keeps others from joining a flight.
func (c *Cache) leaveOut(key string, f *flight) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leaveOutLocked(key, f)
}

func (c *Cache) leaveOutLocked(key string, f *flight) {
	if c.mu.flights[key] == f {
		delete(c.mu.flights, key)
	}
}

// deserted reports whether nobody waits for the flight.
func (c *Cache) deserted(f *flight) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return f.waiters == 0
}

// inFlight reports whether a flight for key is under way.
func (c *Cache) inFlight(key string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mu.flights[key] != nil
}

// filling describes the file that a flight for key is bringing, if its answer is
// known.
func (c *Cache) filling(key string) (Info, bool) {
	c.mu.Lock()
	f := c.mu.flights[key]
	c.mu.Unlock()
	if f == nil {
		return Info{}, false
	}
	select {
	case <-f.ready:
	default:
		return Info{}, false
	}
	switch {
	case f.small != nil:
		return f.small.info(), true
	case f.fill != nil:
		return f.fill.info, true
	default:
		return Info{}, false
	}
}

// outdatePromotions keeps what was read from the disk up to now out of memory.
func (c *Cache) outdatePromotions() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.forgets.Add(1)
}

// promote brings a small file from disk to memory, unless a Forget since the
// caller began to read it may have meant this file.
func (c *Cache) promote(key string, s *small, forgets uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.forgets.Load() == forgets {
		c.memory.set(key, s)
	}
}

// remember notes an absence, unless a Forget since the caller asked the origin
// may have meant this file.
func (c *Cache) remember(key string, ttl time.Duration, forgets uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.forgets.Load() == forgets {
		c.negative.add(key, ttl)
	}
}
