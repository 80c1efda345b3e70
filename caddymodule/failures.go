package caddymodule

import (
	"errors"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/stevedores-org/nix-cache/caddymodule/origin/guard"
)

// failureLog logs requests that failed for no fault of their clients: one at
// once, and those that fail alike afterwards as one line a minute, since in an
// outage all do.
type failureLog struct {
	log   *slog.Logger
	alike alike // by what their clients are told, of which there are few texts
}

type failure struct {
	method, path string
	status       int
	err          error
}

// note logs a failure, or counts it for the next line. One that the origin was not
// asked for is counted always: the guard has logged why.
func (l *failureLog) note(told string, f failure) {
	first := 1
	if errors.Is(f.err, guard.ErrNotAsked) {
		first = 0
	}
	if l.alike.atOnce(told, first, loggedFailure{f, l.log}) {
		l.log.Error("request failed", f.attrs()...)
	}
}

// end logs what has been counted so far; failures from now on are logged one by
// one.
func (l *failureLog) end() { l.alike.end() }

// loggedFailure is a failure, and where it belongs.
type loggedFailure struct {
	failure
	log *slog.Logger
}

func (f loggedFailure) tell(count int) {
	f.log.Error("requests failed in the last minute, the latest of them this one", append([]any{"count", count}, f.attrs()...)...)
}

func (f failure) attrs() []any {
	return []any{"method", f.method, "path", f.path, "status", f.status, "error", f.err}
}

// mostRefused bounds how many refusals are told apart in a minute.
const mostRefused = 256

// refusal is what makes refusals alike: who is refused, whether reading or writing,
// and what is wrong with the token of a job.
type refusal struct {
	client netip.Prefix
	reads  bool
	job    string
}

// refusals are those of the last minute. The zero value is ready for use.
type refusals struct {
	mu struct {
		sync.Mutex
		since time.Time
		seen  map[refusal]struct{}
	}
}

// first reports whether a refusal is to be logged: none like it is among those of
// this minute, and these are not too many.
func (s *refusals) first(r refusal) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := time.Now(); s.mu.seen == nil || now.Sub(s.mu.since) >= logInterval {
		s.mu.since, s.mu.seen = now, make(map[refusal]struct{})
	}
	if _, seen := s.mu.seen[r]; seen || len(s.mu.seen) >= mostRefused {
		return false
	}
	s.mu.seen[r] = struct{}{}
	return true
}
