// Package stall keeps those who use a disk from hanging with it.
//
// The kernel gives no operation on a file back before it is done, which on a
// frozen file system, or a device that is gone, may be never. So each operation
// has a goroutine of its own, and who asked for it waits only so long. While one
// hangs, no other is begun. The number of goroutines that hang is bounded.
//
// What an operation uses, such as a buffer, is its own until it has ended, which
// may be long after Do has returned ErrStalled.
package stall

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// ErrStalled says that the disk has not done an operation in time, or was not
// asked to, since an earlier one hangs.
var ErrStalled = errors.New("the disk does not answer")

// maxOperations is how many operations are under way at a time.
const maxOperations = 64

// Watch watches the operations on one disk.
type Watch struct {
	changed func(stalled bool)
	stalled atomic.Bool
	began   atomic.Pointer[chan struct{}] // closed when an operation hangs; replaced when none does
	places  chan struct{}
	timers  sync.Pool // for reuse

	mu struct {
		sync.Mutex
		hanging int      // operations that nobody waits for any more
		later   []func() // for when there is none
	}
}

// operation is one that has begun. Its fields are guarded by Watch.mu until done
// is closed.
type operation struct {
	done chan struct{}
	err  error
	left bool // by who waited for it
}

// New returns a Watch that calls changed when the disk stalls and when it answers
// again.
func New(changed func(stalled bool)) *Watch {
	w := &Watch{changed: changed, places: make(chan struct{}, maxOperations)}
	w.answers()
	return w
}

// Stalled reports whether an operation hangs.
func (w *Watch) Stalled() bool { return w.stalled.Load() }

// Began returns a channel that is closed when the disk stalls.
func (w *Watch) Began() <-chan struct{} { return *w.began.Load() }

func (w *Watch) answers() {
	began := make(chan struct{})
	w.began.Store(&began)
	w.stalled.Store(false)
}

// Do does an operation and returns its error, or ErrStalled if it takes longer
// than patience, or others do meanwhile. Then the operation goes on, and undo,
// unless it is nil, is called if it succeeds after all.
func (w *Watch) Do(patience time.Duration, do func() error, undo func()) error {
	_, err := w.begin(patience, do, undo)
	return err
}

// begin is Do. begun says that the operation is done, or will be once the disk
// answers, whatever the error.
func (w *Watch) begin(patience time.Duration, do func() error, undo func()) (begun bool, err error) {
	if w.Stalled() {
		return false, ErrStalled
	}
	began := w.Began()
	timer := w.timer(patience)
	defer w.giveBack(timer)
	select {
	case w.places <- struct{}{}:
	case <-timer.C:
		return false, ErrStalled
	case <-began:
		return false, ErrStalled
	}
	o := &operation{done: make(chan struct{})}
	go w.run(o, do, undo)
	select {
	case <-o.done:
		return true, o.err
	case <-timer.C:
	case <-began:
	}
	return true, w.leave(o)
}

func (w *Watch) timer(d time.Duration) *time.Timer {
	if t, ok := w.timers.Get().(*time.Timer); ok {
		t.Reset(d)
		return t
	}
	return time.NewTimer(d)
}

func (w *Watch) giveBack(t *time.Timer) {
	t.Stop() // which leaves nothing in its channel
	w.timers.Put(t)
}

// run does an operation in a goroutine of its own.
func (w *Watch) run(o *operation, do func() error, undo func()) {
	err := do()
	left := w.end(o, err)
	if left && err == nil && undo != nil {
		undo()
	}
	<-w.places
	if left {
		w.returned()
	}
}

// end gives an operation's error to who waits for it, and reports whether nobody
// does.
func (w *Watch) end(o *operation, err error) (left bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	o.err = err
	close(o.done)
	return o.left
}

// leave gives the waiting up.
func (w *Watch) leave(o *operation) error {
	if done, first := w.hang(o); done {
		return o.err
	} else if first {
		w.changed(true)
	}
	return ErrStalled
}

func (w *Watch) hang(o *operation) (done, first bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	select {
	case <-o.done:
		return true, false
	default:
	}
	o.left = true
	w.mu.hanging++
	if w.mu.hanging > 1 {
		return false, false
	}
	close(*w.began.Load())
	w.stalled.Store(true)
	return false, true
}

// returned says that an operation that hung has ended.
func (w *Watch) returned() {
	later, last := w.unhang()
	if !last {
		return
	}
	w.changed(false)
	for _, do := range later {
		do()
	}
}

func (w *Watch) unhang() (later []func(), last bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mu.hanging--
	if w.mu.hanging > 0 {
		return nil, false
	}
	w.answers()
	later, w.mu.later = w.mu.later, nil
	return later, true
}

// Finish does what has to be done sooner or later: now, as Do does it, or when
// the disk answers again.
func (w *Watch) Finish(patience time.Duration, do func() error) error {
	if w.postpone(do) {
		return ErrStalled
	}
	begun, err := w.begin(patience, do, nil)
	if !begun && !w.postpone(do) {
		return w.Finish(patience, do)
	}
	return err
}

// postpone leaves something for when the disk answers again; false if it does.
func (w *Watch) postpone(do func() error) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.mu.hanging == 0 {
		return false
	}
	w.mu.later = append(w.mu.later, func() { do() })
	return true
}
