package caddymodule

import (
	"errors"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/stevedores-org/nix-cache/caddymodule/origin/guard"
)

// logInterval is how often what comes again and again is logged.
const logInterval = time.Minute

// failureLog logs requests that failed for no fault of their clients: one at
// once, and those that fail alike afterwards as one line a minute, since in an
// outage all do.
type failureLog struct {
	log *slog.Logger
	mu  struct {
		sync.Mutex
		runs  map[string]*failureRun // by what their clients are told, of which there are few texts
		ended bool
	}
}

type failure struct {
	method, path string
	status       int
	err          error
}

// failureRun is failures that are alike.
type failureRun struct {
	count  int // since the last line
	latest failure
	timer  *time.Timer
}

// note logs a failure, or counts it for the next line.
func (l *failureLog) note(told string, f failure) {
	if l.counts(told, f) {
		return
	}
	l.log.Error("request failed", f.attrs()...)
}

// counts reports whether a failure is told later. One that the origin was not
// asked for always is: the guard has logged why.
func (l *failureLog) counts(told string, f failure) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mu.ended {
		return false
	}
	run, known := l.mu.runs[told]
	if !known {
		run = &failureRun{timer: time.AfterFunc(logInterval, func() { l.sumUp(told) })}
		if l.mu.runs == nil {
			l.mu.runs = make(map[string]*failureRun)
		}
		l.mu.runs[told] = run
		if !errors.Is(f.err, guard.ErrNotAsked) {
			return false
		}
	}
	run.count++
	run.latest = f
	return true
}

// sumUp logs a minute's failures. After a minute without any, the next one is
// logged at once again.
func (l *failureLog) sumUp(told string) {
	l.mu.Lock()
	run := l.mu.runs[told]
	var sum failureRun
	if run != nil {
		sum = *run
		run.count = 0
		if sum.count > 0 {
			run.timer.Reset(logInterval)
		} else {
			delete(l.mu.runs, told)
		}
	}
	l.mu.Unlock()
	l.logSum(sum)
}

func (l *failureLog) logSum(sum failureRun) {
	if sum.count > 0 {
		l.log.Error("requests failed in the last minute, the latest of them this one", append([]any{"count", sum.count}, sum.latest.attrs()...)...)
	}
}

// end logs what has been counted so far; failures from now on are logged one by
// one.
func (l *failureLog) end() {
	l.mu.Lock()
	runs := l.mu.runs
	l.mu.runs, l.mu.ended = nil, true
	l.mu.Unlock()
	for _, run := range runs {
		run.timer.Stop()
		l.logSum(*run)
	}
}

func (f failure) attrs() []any {
	return []any{"method", f.method, "path", f.path, "status", f.status, "error", f.err}
}

// mostRefused bounds how many clients are told apart in a minute.
const mostRefused = 256

// refusedClients are clients that were refused in the last minute. The zero value
// is ready for use.
type refusedClients struct {
	mu struct {
		sync.Mutex
		since time.Time
		seen  map[netip.Prefix]struct{}
	}
}

// first reports whether a client is to be logged: it is not among those of this
// minute, and these are not too many.
func (c *refusedClients) first(client netip.Prefix) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := time.Now(); c.mu.seen == nil || now.Sub(c.mu.since) >= logInterval {
		c.mu.since, c.mu.seen = now, make(map[netip.Prefix]struct{})
	}
	if _, seen := c.mu.seen[client]; seen || len(c.mu.seen) >= mostRefused {
		return false
	}
	c.mu.seen[client] = struct{}{}
	return true
}
