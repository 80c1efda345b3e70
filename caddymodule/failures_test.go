package caddymodule

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stevedores-org/nix-cache/caddymodule/origin"
	"github.com/stevedores-org/nix-cache/caddymodule/origin/guard"
)

// lockedBuffer is a buffer for several goroutines.
type lockedBuffer struct {
	mu struct {
		sync.Mutex
		bytes.Buffer
	}
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.mu.Write(p)
}

// lines takes the lines that were written since the last time.
func (b *lockedBuffer) lines() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	defer b.mu.Reset()
	return strings.FieldsFunc(b.mu.String(), func(r rune) bool { return r == '\n' })
}

// linesOf returns a log, and what takes the lines it has got since.
func linesOf() (log *slog.Logger, take func() []string) {
	b := new(lockedBuffer)
	return slog.New(slog.NewTextHandler(b, nil)), b.lines
}

func wantLines(t *testing.T, got []string, want ...string) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%d lines, want %d: %q", len(got), len(want), got)
		return
	}
	for i := range got {
		for word := range strings.SplitSeq(want[i], "|") {
			if !strings.Contains(got[i], word) {
				t.Errorf("line %q, want %q", got[i], want[i])
			}
		}
	}
}

func TestFailuresAreSummedUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, take := linesOf()
		l := &failureLog{log: log}
		refused := func(i int) { l.note("refused", failure{"GET", fmt.Sprint("/path", i), 502, errors.New("no")}) }
		for i := range 100 {
			refused(i)
		}
		wantLines(t, take(), "request failed|/path0")
		time.Sleep(logInterval + 1)
		wantLines(t, take(), "requests failed in the last minute|count=99|/path99")
		refused(100)
		wantLines(t, take())
		time.Sleep(logInterval)
		wantLines(t, take(), "count=1 |/path100")
		time.Sleep(logInterval)
		wantLines(t, take())
		refused(101)
		wantLines(t, take(), "request failed|/path101")
		l.end()
	})
}

// TestOutageIsNotToldTwice: that the origin does not answer is the guard's to tell.
func TestOutageIsNotToldTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, take := linesOf()
		l := &failureLog{log: log}
		for range 100 {
			l.note("unavailable", failure{"GET", "/a", 503, &origin.UnavailableError{Op: "open", Path: "a", Err: guard.ErrNotAsked}})
		}
		wantLines(t, take())
		l.end()
		wantLines(t, take(), "count=100 ")
	})
}

func TestRefusalsAreToldOnceAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := new(refusals)
		client := func(i int) refusal {
			return refusal{client: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 32)}
		}
		told := 0
		for i := range 20 * mostRefused {
			if c.first(client(i / 2)) {
				told++
			}
		}
		if told != mostRefused {
			t.Errorf("%d clients told of, want %d", told, mostRefused)
		}
		time.Sleep(logInterval)
		if !c.first(client(0)) || c.first(client(0)) {
			t.Error("after a minute, a client is not told of once more")
		}
		write, read, job := client(0), client(0), client(0)
		read.reads, job.job = true, "the token expired"
		for _, r := range []refusal{read, job} {
			if !c.first(r) {
				t.Errorf("%+v is taken for %+v", r, write)
			}
		}
	})
}
