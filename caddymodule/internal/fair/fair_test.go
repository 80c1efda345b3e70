package fair

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
)

// take takes a place in the background; got has what gives it back.
func take(t *testing.T, p *Places, holder string) (got chan func()) {
	got = make(chan func(), 1)
	go func() {
		giveBack, err := p.Take(t.Context(), holder)
		if err != nil {
			close(got)
			return
		}
		got <- giveBack
	}()
	synctest.Wait()
	return got
}

func wantTaken(t *testing.T, what string, got chan func(), want bool) {
	t.Helper()
	synctest.Wait()
	if (len(got) == 1) != want {
		t.Errorf("%s has a place: %v, want %v", what, !want, want)
	}
}

func TestPlaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := New(Bounds{Places: 4, Each: 3, Waiting: 100})
		var a []chan func()
		for range 5 {
			a = append(a, take(t, p, "a"))
		}
		wantTaken(t, "a's third", a[2], true)
		wantTaken(t, "a's fourth", a[3], false)
		b1, b2 := take(t, p, "b"), take(t, p, "b")
		wantTaken(t, "b's first", b1, true)
		wantTaken(t, "b's second", b2, false)

		(<-a[0])()
		wantTaken(t, "b's second, who has fewer", b2, true)
		wantTaken(t, "a's fourth, who has waited longer", a[3], false)
		(<-b1)()
		wantTaken(t, "a's fourth", a[3], true)
		wantTaken(t, "a's fifth", a[4], false)
		for _, got := range []chan func(){a[1], a[2], a[3], a[4], b2} {
			(<-got)()
		}
		if p.mu.taken != 0 || len(p.mu.held) != 0 || len(p.mu.waiting) != 0 {
			t.Errorf("nobody has a place, but %+v", &p.mu)
		}
	})
}

func TestTooManyWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := New(Bounds{Places: 4, Each: 2, Waiting: 4})
		var a []chan func()
		for range 4 { // two wait
			a = append(a, take(t, p, "a"))
		}
		if _, err := p.Take(t.Context(), "a"); !errors.Is(err, ErrFull) {
			t.Errorf("a's fifth: %v", err)
		}
		b := take(t, p, "b")
		wantTaken(t, "b's first", b, true)
		(<-b)()
		for _, got := range a {
			(<-got)()
		}
	})
}

func TestWaitEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := New(Bounds{Places: 1, Each: 1, Waiting: 10})
		giveBack, err := p.Take(t.Context(), "a")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		gone := make(chan error)
		go func() {
			_, err := p.Take(ctx, "a")
			gone <- err
		}()
		synctest.Wait()
		next := take(t, p, "a")
		cancel()
		if err := <-gone; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		giveBack()
		wantTaken(t, "who waits on", next, true)
		(<-next)()
	})
}
