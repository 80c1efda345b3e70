package r2_test

import (
	"io"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stevedores-org/nix-cache/caddymodule/origin"
	"github.com/stevedores-org/nix-cache/caddymodule/origin/guard"
	"github.com/stevedores-org/nix-cache/caddymodule/origin/limit"
	"github.com/stevedores-org/nix-cache/caddymodule/origin/r2"
)

const places = 4

// limited is a bucket within a budget of 4 places, with the layers that a cache has
// above it. Requests take that long by their method. most is told how many there are
// at a time.
func limited(t *testing.T, takes map[string]time.Duration, most *atomic.Int64) origin.Origin {
	config := valid()
	config.PartSize = r2.MinPartSize
	config.Budget = limit.NewBudget(places)
	var requests atomic.Int64
	s := newStore()
	b := serve(t, config, func(w http.ResponseWriter, r *http.Request) {
		most.Store(max(most.Load(), requests.Add(1)))
		defer requests.Add(-1)
		<-time.After(takes[r.Method])
		s.ServeHTTP(w, r)
	})
	o := guard.New(b, slog.New(slog.DiscardHandler))
	return limit.New(o, config.Budget, func(string) (limit.Class, bool) { return limit.Large, false })
}

// wantAnswer fails unless the origin answers after that time.
func wantAnswer(t *testing.T, o origin.Reader, after time.Duration) {
	t.Helper()
	begun := time.Now()
	_, err := o.Stat(t.Context(), path)
	if took := time.Since(begun); err != nil && kind(err) != "absent" || took != after {
		t.Errorf("Stat = %v after %v, want an answer after %v", err, took, after)
	}
}

func TestUploadsLeavePlacesToReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const long = r2.Inactivity - time.Second
		var most atomic.Int64
		o := limited(t, map[string]time.Duration{"PUT": long}, &most)
		begun := time.Now()
		var uploads sync.WaitGroup
		for range 4 {
			uploads.Go(func() {
				if err := put(t.Context(), o, []byte("x"), origin.CreateOptions{Size: 1}); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		for range 5 {
			wantAnswer(t, o, 0)
		}
		uploads.Wait()
		if took := time.Since(begun); took != 2*long {
			t.Errorf("4 uploads took %v, want 2 at a time to take %v", took, 2*long)
		}
	})
}

// TestAllRequestsHavePlaces: whatever kind they are of.
func TestAllRequestsHavePlaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var most atomic.Int64
		o := limited(t, map[string]time.Duration{"GET": time.Second, "PUT": time.Second, "POST": time.Second, "DELETE": time.Second}, &most)
		if err := put(t.Context(), o, []byte("x"), origin.CreateOptions{Size: 1}); err != nil {
			t.Fatal(err)
		}
		var all sync.WaitGroup
		for range 5 {
			all.Go(func() { // one may abort another's, since the store has one upload at a time
				put(t.Context(), o, make([]byte, 3*r2.MinPartSize), origin.CreateOptions{Size: -1})
			})
			for _, operation := range operations {
				all.Go(func() { operation.do(t.Context(), o) })
			}
			all.Go(func() {
				if _, body, err := o.Open(t.Context(), path, origin.OpenOptions{}); err == nil {
					io.Copy(io.Discard, body)
					body.Close()
				}
			})
		}
		all.Wait()
		if got := most.Load(); got != places {
			t.Errorf("%d requests at a time at most, want %d", got, places)
		}
	})
}

// TestWaitForAPlaceIsNotTheOrigins: it does not count as the origin's time.
func TestWaitForAPlaceIsNotTheOrigins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var most atomic.Int64
		o := limited(t, nil, &most)
		if err := put(t.Context(), o, []byte("content"), origin.CreateOptions{Size: 7}); err != nil {
			t.Fatal(err)
		}
		const wait = 40 * time.Second
		var bodies []io.Closer
		for range 2 { // as many as there are places for large reads
			_, body, err := o.Open(t.Context(), path, origin.OpenOptions{})
			if err != nil {
				t.Fatal(err)
			}
			bodies = append(bodies, body)
		}
		time.AfterFunc(wait, func() {
			for _, body := range bodies {
				body.Close()
			}
		})
		begun := time.Now()
		var reads sync.WaitGroup
		for range 4 {
			reads.Go(func() {
				_, body, err := o.Open(t.Context(), path, origin.OpenOptions{})
				if err != nil || time.Since(begun) != wait {
					t.Errorf("Open = %v after %v, want an answer after %v", err, time.Since(begun), wait)
					return
				}
				body.Close()
			})
		}
		reads.Wait()
		wantAnswer(t, o, 0)
	})
}
