// Package guard stands before an origin that may fail: it bounds how long the
// origin may take to answer, and stops asking one that does not answer, so that
// an outage doesn't cost each request a time-out.
//
//	asking ── failures in a row ──▶ not asking: every request fails at once,
//	  ▲                              but for one each probeInterval
//	  └───────── an answer ◀────────────┘
//
// An answer is whatever shows that the origin is there: absence and refusal as
// well as the object. The package repeats nothing and remembers no object.
package guard

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"sync"
	"time"

	"github.com/stevedores-org/nix-cache/caddymodule/origin"
)

const (
	// answerTimeout is how long the origin may take to begin an answer. It is
	// for the requests that clients wait on; the writing of an object, which
	// takes as long as it takes, has none.
	answerTimeout = 15 * time.Second

	// maxFailures is how many requests in a row fail before the origin is
	// taken to be out of reach: one could be a matter of that request.
	maxFailures = 3

	// probeInterval is how often an origin out of reach is asked again.
	probeInterval = time.Second
)

// ErrNotAsked says that the origin was not asked, since it did not answer before.
var ErrNotAsked = errors.New("not asked, since it did not answer before")

// Guard is an origin with a guard before it.
type Guard struct {
	origin.Origin
	log *slog.Logger

	mu struct {
		sync.Mutex
		failures int       // in a row
		timeout  bool      // the last one was a time-out
		cause    error     // of the last one
		probe    time.Time // when to ask again, once there are maxFailures
	}
}

var _ origin.Origin = (*Guard)(nil)

// New puts a guard before an origin.
func New(o origin.Origin, log *slog.Logger) *Guard { return &Guard{Origin: o, log: log} }

// Open implements [origin.Reader]. The time limit is that of the answer's
// beginning, not of the body.
func (g *Guard) Open(ctx context.Context, path string, opts origin.OpenOptions) (info origin.Info, body io.ReadCloser, err error) {
	err = g.ask(ctx, "open", path, func(ctx context.Context) (err error) {
		info, body, err = g.Origin.Open(ctx, path, opts)
		return err
	})
	if err != nil && body != nil { // it came when it was given up already
		body.Close()
		body = nil
	}
	return info, body, err
}

// Stat implements [origin.Reader].
func (g *Guard) Stat(ctx context.Context, path string) (info origin.Info, err error) {
	err = g.ask(ctx, "stat", path, func(ctx context.Context) (err error) {
		info, err = g.Origin.Stat(ctx, path)
		return err
	})
	return info, err
}

// Delete implements [origin.Writer].
func (g *Guard) Delete(ctx context.Context, path string) error {
	return g.ask(ctx, "delete", path, func(ctx context.Context) error {
		return g.Origin.Delete(ctx, path)
	})
}

// Create implements [origin.Writer].
func (g *Guard) Create(ctx context.Context, path string, opts origin.CreateOptions) (origin.Staged, error) {
	if err := g.admit("create", path); err != nil {
		return nil, err
	}
	return g.Origin.Create(ctx, path, opts)
}

// List implements [origin.Lister].
func (g *Guard) List(ctx context.Context, prefix string) iter.Seq2[origin.Entry, error] {
	return g.Origin.List(ctx, prefix)
}

// ask lets the origin answer, within its time, and notes whether it did.
func (g *Guard) ask(ctx context.Context, op, path string, do func(context.Context) error) error {
	if err := g.admit(op, path); err != nil {
		return err
	}
	within, giveUp := context.WithCancel(ctx) // ends with ctx: a body goes on being read under it
	timer := time.AfterFunc(answerTimeout, giveUp)
	err := do(within)
	switch {
	case !timer.Stop():
		err = &origin.UnavailableError{Op: op, Path: path, Timeout: true, Err: context.DeadlineExceeded}
	case ctx.Err() != nil:
		return err // the caller gave up: that says nothing of the origin
	}
	g.note(err)
	return err
}

// admit refuses to ask an origin that is out of reach.
func (g *Guard) admit(op, path string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.mu.failures < maxFailures {
		return nil
	}
	if now := time.Now(); !now.Before(g.mu.probe) {
		g.mu.probe = now.Add(probeInterval)
		return nil
	}
	return &origin.UnavailableError{Op: op, Path: path, Timeout: g.mu.timeout, Err: fmt.Errorf("%w: %w", ErrNotAsked, g.mu.cause)}
}

func (g *Guard) note(err error) {
	var unavailable *origin.UnavailableError
	failed := errors.As(err, &unavailable)
	g.mu.Lock()
	defer g.mu.Unlock()
	before := g.mu.failures
	if !failed {
		g.mu.failures = 0
		if before >= maxFailures {
			g.log.Info("the origin answers again")
		}
		return
	}
	g.mu.failures++
	g.mu.timeout, g.mu.cause = unavailable.Timeout, unavailable.Err
	g.mu.probe = time.Now().Add(probeInterval)
	if g.mu.failures == maxFailures {
		g.log.Error("the origin is out of reach: only what is cached is served until it answers", "error", err)
	}
}
