package caddymodule

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stevedores-org/nix-cache/caddymodule/origin"
	"github.com/stevedores-org/nix-cache/caddymodule/origin/origintest"
)

// slowOrigin answers a Stat after a while, and counts them.
type slowOrigin struct {
	origin.Reader
	takes time.Duration
	err   error
	asked int
}

func (o *slowOrigin) Stat(ctx context.Context, path string) (origin.Info, error) {
	o.asked++
	select {
	case <-time.After(o.takes):
		return origin.Info{}, o.err
	case <-ctx.Done():
		return origin.Info{}, ctx.Err()
	}
}

// TestReadinessIsShared: those who ask meanwhile wait for one answer, which is
// good for a second.
func TestReadinessIsShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, take := linesOf()
		o := &slowOrigin{Reader: origintest.NewMemory(), takes: 300 * time.Millisecond, err: errors.New("no")}
		up := true
		r := newReadiness(o, log, func(now bool) { up = now })
		defer r.end()
		for range 300 {
			go func() {
				if err := r.ask(t.Context()); err == nil {
					t.Error("an origin that refuses is ready")
				}
			}()
		}
		time.Sleep(readyInterval - 1)
		synctest.Wait()
		r.ask(t.Context())
		if o.asked != 1 || up {
			t.Errorf("asked %d times, want once; up: %v", o.asked, up)
		}
		wantLines(t, take(), "not ready|error=no")
		time.Sleep(1)
		synctest.Wait()
		o.err = nil
		if err := r.ask(t.Context()); err != nil || o.asked != 2 || !up {
			t.Errorf("after a second: %v, asked %d times, up: %v", err, o.asked, up)
		}
		wantLines(t, take(), "ready: the origin answers")
	})
}

// TestReadinessIsWatched: an origin that does not answer at the start is asked
// again until it does, and no more after that.
func TestReadinessIsWatched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, take := linesOf()
		o := &slowOrigin{Reader: origintest.NewMemory(), err: &origin.UnavailableError{Op: "stat", Path: "a", Err: errors.New("gone")}}
		up := true
		r := newReadiness(o, log, func(now bool) { up = now })
		r.watch()
		time.Sleep(3*watchInterval + 1)
		synctest.Wait()
		if o.asked != 4 || up {
			t.Errorf("asked %d times, want 4; up: %v", o.asked, up)
		}
		wantLines(t, take(), "not ready|gone")
		o.err = nil
		time.Sleep(10 * watchInterval)
		synctest.Wait()
		if o.asked != 5 || !up {
			t.Errorf("asked %d times, want 5; up: %v", o.asked, up)
		}
		wantLines(t, take(), "ready: the origin answers")
		o.takes = time.Hour
		go r.ask(t.Context())
		synctest.Wait()
		r.end()
	})
}
