package r2_test

import (
	"errors"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stevedores-org/nix-cache/caddymodule/origin"
	"github.com/stevedores-org/nix-cache/caddymodule/origin/guard"
	"github.com/stevedores-org/nix-cache/caddymodule/origin/r2"
)

// guarded is a guard before a bucket that takes 4 requests at a time. Its PUTs
// take that long.
func guarded(t *testing.T, puts time.Duration) *guard.Guard {
	config := valid()
	config.MaxRequests = 4
	b := serve(t, config, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut {
			io.Copy(io.Discard, r.Body)
			<-time.After(puts)
			return
		}
		w.Header().Set("Content-Length", "1")
		io.WriteString(w, "x")
	})
	return guard.New(b, slog.New(slog.DiscardHandler))
}

// wantAnswer fails unless the origin answers after that time.
func wantAnswer(t *testing.T, o origin.Reader, after time.Duration) {
	t.Helper()
	begun := time.Now()
	_, err := o.Stat(t.Context(), path)
	if took := time.Since(begun); err != nil || took != after {
		t.Errorf("Stat = %v after %v, want an answer after %v", err, took, after)
	}
}

func TestUploadsLeaveSlotsToReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const long = r2.Inactivity - time.Second
		o := guarded(t, long)
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

// readers opens bodies that take all slots.
func readers(t *testing.T, o origin.Reader) (closeAll func()) {
	var bodies []io.Closer
	for range 4 {
		_, body, err := o.Open(t.Context(), path, origin.OpenOptions{})
		if err != nil {
			t.Fatal(err)
		}
		bodies = append(bodies, body)
	}
	return func() {
		for _, body := range bodies {
			body.Close()
		}
	}
}

func TestWaitForASlotIsNotTheOrigins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := guarded(t, 0)
		const wait = 20 * time.Second
		time.AfterFunc(wait, readers(t, o))
		var stats sync.WaitGroup
		for range 4 {
			stats.Go(func() { wantAnswer(t, o, wait) })
		}
		stats.Wait()
	})
}

func TestWaitForASlotHasAnEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := guarded(t, 0)
		closeAll := readers(t, o)
		begun := time.Now()
		var stats sync.WaitGroup
		for range 4 {
			stats.Go(func() {
				_, err := o.Stat(t.Context(), path)
				if kind(err) != "timeout" || !errors.Is(err, guard.ErrNoTurn) {
					t.Errorf("Stat = %v, want that it had no turn", err)
				}
			})
		}
		stats.Wait()
		if took := time.Since(begun); took > time.Minute {
			t.Errorf("that took %v", took)
		}
		closeAll()
		wantAnswer(t, o, 0)
	})
}
