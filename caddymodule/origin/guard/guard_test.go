package guard

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stevedores-org/nix-cache/caddymodule/origin"
	"github.com/stevedores-org/nix-cache/caddymodule/origin/origintest"
)

func newGuard() (*Guard, *origintest.Memory) {
	o := origintest.NewMemory()
	return New(o, slog.New(slog.DiscardHandler)), o
}

func TestConformance(t *testing.T) {
	origintest.Run(t, func(t *testing.T) origin.Origin {
		g, _ := newGuard()
		return g
	})
}

// fail makes the guard give the origin up.
func fail(t *testing.T, g *Guard, o *origintest.Memory) {
	t.Helper()
	o.OnStat(func(path string) error { return origintest.Unavailable("stat", path) })
	for range maxFailures {
		wantUnavailable(t, g, false)
	}
}

func wantUnavailable(t *testing.T, g *Guard, timeout bool) {
	t.Helper()
	_, err := g.Stat(t.Context(), "a")
	var unavailable *origin.UnavailableError
	if !errors.As(err, &unavailable) || unavailable.Timeout != timeout {
		t.Fatalf("stat: %v, want an UnavailableError with Timeout %v", err, timeout)
	}
}

func TestDeadOriginIsAskedOnceASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, o := newGuard()
		fail(t, g, o)
		for range 100 { // 10 seconds of it
			if _, err := g.Stat(t.Context(), "a"); err == nil {
				t.Fatal("a dead origin answered")
			}
			<-time.After(100 * time.Millisecond)
		}
		if got, want := o.Ops("stat"), maxFailures+9; got != want {
			t.Errorf("%d requests reached a dead origin, want %d", got, want)
		}
	})
}

func TestRecoveryIsNoticedWithinASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, o := newGuard()
		fail(t, g, o)
		o.OnStat(nil)
		if _, err := g.Stat(t.Context(), "a"); !errors.Is(err, ErrNotAsked) {
			t.Errorf("stat right after the failures: %v, want ErrNotAsked", err)
		}
		<-time.After(probeInterval)
		for range 3 { // absence is an answer
			if _, err := g.Stat(t.Context(), "a"); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("stat after the recovery: %v, want absence", err)
			}
		}
	})
}

func TestStalledOriginIsATimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, o := newGuard()
		gate := o.Hold("stat", "")
		begun := time.Now()
		wantUnavailable(t, g, true)
		if took := time.Since(begun); took != answerTimeout {
			t.Errorf("a stalled origin was given up after %v, want %v", took, answerTimeout)
		}
		for range maxFailures - 1 {
			wantUnavailable(t, g, true)
		}
		begun = time.Now()
		wantUnavailable(t, g, true)
		if took := time.Since(begun); took != 0 {
			t.Errorf("a dead origin took %v to fail", took)
		}
		gate.Release()
	})
}

func TestSlowBodyIsNoTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, o := newGuard()
		o.Put("a", []byte("content"))
		gate := o.HoldBody("a", 3)
		_, body, err := g.Open(t.Context(), "a", origin.OpenOptions{})
		if err != nil {
			t.Fatal(err)
		}
		defer body.Close()
		time.AfterFunc(10*answerTimeout, gate.Release)
		if got, err := io.ReadAll(body); err != nil || string(got) != "content" {
			t.Errorf("body %q, %v", got, err)
		}
	})
}

func TestCallersThatGiveUpSayNothingOfTheOrigin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, o := newGuard()
		gate := o.Hold("stat", "")
		for range 2 * maxFailures {
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(time.Second, cancel)
			if _, err := g.Stat(ctx, "a"); err == nil {
				t.Fatal("a stalled origin answered")
			}
		}
		gate.Release()
		if _, err := g.Stat(t.Context(), "a"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("stat: %v, want the origin's answer", err)
		}
	})
}
