package limit

import (
	"context"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stevedores-org/nix-cache/caddymodule/origin"
)

// DefaultPlaces is how many requests are usual: R2 answers 5xx when it gets too
// many.
const DefaultPlaces = 64

// Class says what kind of request takes a place.
type Class uint8

const (
	// Small requests are over soon: for a file of some kB, for what describes a
	// file, to remove one, to begin and to complete an upload.
	Small Class = iota

	// Large ones read a file of any size, at the pace of the link or of a client.
	Large

	// Upload ones send a body of ours, at the pace of the uplink.
	Upload

	// Background ones can wait: nobody does.
	Background

	classes
)

// longestWait is how long a request of each class waits for a place at most.
//
// Nix up to 2.34 repeats what got a 503 for 4 seconds in all and then gives up,
// but it waits 300 seconds for a transfer that does not move
// (stalled-download-timeout). So it is better for a NAR to wait than to be
// refused, and for a narinfo as long as a place comes free soon.
var longestWait = [classes]time.Duration{
	Small:      5 * time.Second,
	Large:      4 * time.Minute,
	Upload:     4 * time.Minute,
	Background: 10 * time.Minute,
}

// Budget is the places for requests to one bucket. All but small ones have a
// quarter less than all places together, so that small ones never wait for
// transfers; and none of those classes can take all of that.
type Budget struct {
	places   int
	most     [classes]int // of each class
	together int          // of all but Small
	waiting  atomic.Int64

	mu struct {
		sync.Mutex
		taken [classes]int
		lines [classes]line
		next  Class // has the first choice of the next place
	}
}

// NewBudget returns a budget of so many requests at a time, one at least.
func NewBudget(places int) *Budget {
	places = max(places, 1)
	b := &Budget{places: places, together: share(places, 6)}
	b.most = [classes]int{Small: places, Large: share(places, 5), Upload: share(places, 4), Background: share(places, 1)}
	for class := range b.mu.lines {
		b.mu.lines[class] = newLine(mostWaiting(places))
	}
	return b
}

// share returns so many eighths of the places.
func share(places, eighths int) int { return max(places*eighths/8, 1) }

// mostWaiting is how many requests of a class may wait: some dozens of Nix
// clients have that many under way, 125 each at most.
func mostWaiting(places int) int { return max(32*places, 2048) }

// Places returns how many requests there may be at a time.
func (b *Budget) Places() int { return b.places }

// Waiting returns how many requests wait for a place.
func (b *Budget) Waiting() int { return int(b.waiting.Load()) }

// Request describes a request that needs a place.
type Request struct {
	Class Class
	Op    string // as in origin.UnavailableError
	Path  string

	// Offset is of the first byte that is read: of one file, what comes first is
	// waited for most.
	Offset int64

	// Continues says that the request goes on with what was let in before. It is
	// not refused for want of room to wait in, since there are only so many, and
	// waits as long as transfers do, since more than itself would be lost.
	Continues bool

	// Hasty says that it is refused after as short a wait as a small request, of
	// whatever class it is: whoever asks can do without the answer.
	Hasty bool
}

func (r Request) longestWait() time.Duration {
	switch {
	case r.Continues:
		return max(longestWait[r.Class], longestWait[Large])
	case r.Hasty:
		return longestWait[Small]
	}
	return longestWait[r.Class]
}

// Take waits until the request may be sent. Clients, as by [origin.AskerOf], have
// their turns one after the other, and so have the files that one of them reads.
//
// It fails with an *origin.BusyError at once where too many wait already, and
// after a while; with [origin.ErrUnwanted]; and with an *origin.UnavailableError
// when the context ends.
func (b *Budget) Take(ctx context.Context, r Request) (*Place, error) {
	if err := ended(ctx, r); err != nil {
		return nil, err
	}
	w, ok := b.enter(ctx, r)
	if ok {
		return &Place{budget: b, class: r.Class}, nil
	}
	b.waiting.Add(1)
	defer b.waiting.Add(-1)
	if err := b.wait(ctx, r, w); err != nil {
		return nil, err
	}
	return &Place{budget: b, class: r.Class}, nil
}

func ended(ctx context.Context, r Request) error {
	err := ctx.Err()
	if err == nil {
		return nil
	}
	return &origin.UnavailableError{Op: r.Op, Path: r.Path, Timeout: err == context.DeadlineExceeded, Err: err}
}

// enter takes a place if there is one, or else joins the line.
func (b *Budget) enter(ctx context.Context, r Request) (w *waiter, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.free(r.Class) { // then nobody of that class waits
		b.mu.taken[r.Class]++
		return nil, true
	}
	w = newWaiter(origin.AskerOf(ctx).Client, r)
	b.mu.lines[r.Class].join(w)
	return w, false
}

// wait returns nil once the waiter has a place.
func (b *Budget) wait(ctx context.Context, r Request, w *waiter) error {
	timer := time.NewTimer(r.longestWait())
	defer timer.Stop()
	asker := origin.AskerOf(ctx)
	var err error
	for err == nil {
		select {
		case <-w.called:
			return w.err
		case client := <-asker.Joined:
			b.move(w, client)
		case <-timer.C:
			err = &origin.BusyError{Op: r.Op, Path: r.Path}
		case <-asker.Gone:
			err = origin.ErrUnwanted
		case <-ctx.Done():
			err = ended(ctx, r)
		}
	}
	if b.leave(w) || w.err != nil {
		return err
	}
	// It was called at the same time, with a place that is for others now.
	b.giveBack(r.Class)
	return err
}

// move has a waiter wait among those of another client, if there are fewer.
func (b *Budget) move(w *waiter, client netip.Prefix) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.mu.lines[w.request.Class].move(w, client)
}

// leave takes a waiter out of the line; false if it has been called.
func (b *Budget) leave(w *waiter) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.mu.lines[w.request.Class].leave(w)
}

// free reports whether there is a place for a request of the class. It is called
// with the lock held.
func (b *Budget) free(class Class) bool {
	all := 0
	for _, n := range b.mu.taken {
		all += n
	}
	if all >= b.places || b.mu.taken[class] >= b.most[class] {
		return false
	}
	return class == Small || all-b.mu.taken[Small] < b.together
}

func (b *Budget) giveBack(class Class) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.mu.taken[class]--
	for b.callNext() {
	}
}

// callNext gives a free place to one who waits, of each class in turn; false if
// there is none of either. It is called with the lock held.
func (b *Budget) callNext() bool {
	for i := range classes {
		class := (b.mu.next + i) % classes
		if b.mu.lines[class].len() > 0 && b.free(class) {
			b.mu.taken[class]++
			b.mu.lines[class].call()
			b.mu.next = (class + 1) % classes
			return true
		}
	}
	return false
}

// Place is the right to one request at a time.
type Place struct {
	budget *Budget
	class  Class
	gone   atomic.Bool
}

// GiveBack leaves the place to others. Only the first call counts.
func (p *Place) GiveBack() {
	if !p.gone.Swap(true) {
		p.budget.giveBack(p.class)
	}
}

// wanted reports whether others wait for such a place.
func (p *Place) wanted() bool {
	p.budget.mu.Lock()
	defer p.budget.mu.Unlock()
	return p.budget.mu.lines[p.class].len() > 0
}
