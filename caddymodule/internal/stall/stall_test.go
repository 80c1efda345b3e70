package stall

import (
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

const patience = time.Second

// watched is a Watch, and what it has said.
func watched(said *[]bool) *Watch {
	return New(func(stalled bool) { *said = append(*said, stalled) })
}

func TestAnOperationsError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var said []bool
		w := watched(&said)
		failed := errors.New("failed")
		if err := w.Do(patience, func() error { time.Sleep(patience - 1); return failed }, nil); err != failed {
			t.Errorf("%v, want the operation's own error", err)
		}
		if w.Stalled() || len(said) > 0 {
			t.Errorf("stalled: %v, said %v", w.Stalled(), said)
		}
	})
}

// TestAHangingDisk holds nobody for longer than patience, and is asked for nothing
// more before it answers.
func TestAHangingDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var said []bool
		w := watched(&said)
		thaw := make(chan struct{})
		begun := 0
		var undone atomic.Int64
		begin := time.Now()
		results := make(chan error)
		const many = 3 * maxOperations
		for range many {
			go func() {
				results <- w.Do(patience, func() error { begun++; <-thaw; return nil }, func() { undone.Add(1) })
			}()
			synctest.Wait()
		}
		for range many {
			if err := <-results; err != ErrStalled {
				t.Errorf("%v, want ErrStalled", err)
			}
		}
		if held := time.Since(begin); held != patience {
			t.Errorf("held for %v", held)
		}
		if err := w.Do(patience, func() error { t.Error("begun while another hangs"); return nil }, nil); err != ErrStalled {
			t.Errorf("%v, want ErrStalled", err)
		}
		finished := 0
		if err := w.Finish(patience, func() error { finished++; return nil }); err != ErrStalled || finished > 0 {
			t.Errorf("finished %d times, %v", finished, err)
		}
		if time.Since(begin) != patience || begun != maxOperations {
			t.Errorf("%d operations hang after %v, want %d", begun, time.Since(begin), maxOperations)
		}
		close(thaw)
		synctest.Wait()
		if undone.Load() != maxOperations || finished != 1 || w.Stalled() || !slices.Equal(said, []bool{true, false}) {
			t.Errorf("undone %d, finished %d, stalled %v, said %v", undone.Load(), finished, w.Stalled(), said)
		}
		if err := w.Do(patience, func() error { return nil }, nil); err != nil {
			t.Error(err)
		}
	})
}

// TestFinish: what was begun is not done twice, and what was not is done later.
func TestFinish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var said []bool
		w := watched(&said)
		thaw := make(chan struct{})
		done := 0
		hang := func() error { <-thaw; done++; return nil }
		for range 3 {
			if err := w.Finish(patience, hang); err != ErrStalled {
				t.Errorf("%v, want ErrStalled", err)
			}
		}
		close(thaw)
		synctest.Wait()
		if done != 3 {
			t.Errorf("done %d times, want 3", done)
		}
		if err := w.Finish(patience, hang); err != nil || done != 4 {
			t.Errorf("done %d times, %v", done, err)
		}
	})
}

// TestFinishWithoutPatience gives up between the start of an operation and its
// first instruction, too, and it is done once all the same.
func TestFinishWithoutPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := New(func(bool) {})
		for range 1000 {
			var done atomic.Int64
			w.Finish(0, func() error { done.Add(1); return nil })
			synctest.Wait()
			if n := done.Load(); n != 1 {
				t.Fatalf("done %d times, want once", n)
			}
		}
	})
}
