package caddymodule

import (
	"sync"
	"time"
)

// logInterval is how often what comes again and again is logged.
const logInterval = time.Minute

// mostKinds bounds what is counted apart. There are a few dozen texts.
const mostKinds = 256

// alike counts what comes again and again, so that the log has a few lines a
// minute of it. The zero value is ready for use.
type alike struct {
	again int // how many of a kind are told at once in each minute after the first
	mu    struct {
		sync.Mutex
		runs  map[string]*run
		ended bool
	}
}

// teller is something to be told.
type teller interface {
	// tell tells of the latest of so many.
	tell(count int)
}

// run is what came of a kind.
type run struct {
	left   int // to be told at once in this minute
	count  int // since the last line
	latest teller
	timer  *time.Timer
}

// atOnce reports whether something is to be told at once, as the first few of its
// kind are; else it is counted, and told of when the minute is over. After a
// minute in which none was counted, the first few are told at once again.
func (a *alike) atOnce(kind string, first int, what teller) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	r, known := a.mu.runs[kind]
	switch {
	case a.mu.ended, !known && len(a.mu.runs) >= mostKinds:
		return true
	case !known:
		r = a.begin(kind, first)
	}
	if r.left > 0 {
		r.left--
		return true
	}
	r.count++
	r.latest = what
	return false
}

// begin begins a run, with mu held.
func (a *alike) begin(kind string, first int) *run {
	r := &run{left: first}
	r.timer = time.AfterFunc(logInterval, func() { a.sumUp(kind) })
	if a.mu.runs == nil {
		a.mu.runs = make(map[string]*run)
	}
	a.mu.runs[kind] = r
	return r
}

// sumUp tells of what was counted in a minute.
func (a *alike) sumUp(kind string) {
	a.mu.Lock()
	r := a.mu.runs[kind]
	var sum run
	if r != nil {
		sum = *r
		r.left, r.count, r.latest = a.again, 0, nil
		if sum.count > 0 {
			r.timer.Reset(logInterval)
		} else {
			delete(a.mu.runs, kind)
		}
	}
	a.mu.Unlock()
	sum.tell()
}

func (r run) tell() {
	if r.count > 0 {
		r.latest.tell(r.count)
	}
}

// end tells of what has been counted so far; all from now on is told at once.
func (a *alike) end() {
	a.mu.Lock()
	runs := a.mu.runs
	a.mu.runs, a.mu.ended = nil, true
	a.mu.Unlock()
	for _, r := range runs {
		r.timer.Stop()
		r.tell()
	}
}
