package caddymodule

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/stevedores-org/nix-cache/caddymodule/cache"
)

// How the process ends, and what a config leaves:
//
//	a signal ── Caddy waits for requests until the grace period is over
//	         ── the handlers are cleaned up: their caches begin to close
//	         ── atExit: uploads and fills that are still under way are cut
//	         ── the caches are closed in order, unless a disk hangs
//
//	a reload ── the caches that no handler uses any more begin to close, which
//	            waits for the requests of the config before
//	         ── a config that wants one of them back takes it as it is

func init() { caddy.OnExit(atExit) }

// The process waits a while for what it has cut: an upload tells the bucket that
// it has ended, and what is being stored has to reach the disk. Cut off in that,
// the next start would have to check what is there.
const (
	uploadPatience = 3 * time.Second
	diskPatience   = 10 * time.Second
)

// atExit comes after all servers have stopped, or their grace period is over.
func atExit(ctx context.Context) {
	uploads.cut()
	closing.cut()
	within(ctx, uploadPatience, uploads.wait)
	within(ctx, diskPatience, closing.wait)
}

func within(ctx context.Context, patience time.Duration, do func(context.Context)) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	do(ctx)
}

// closing has the caches that are being closed.
var closing closingCaches

// closingCaches is a set of caches that no config uses any more. Its zero value is
// empty.
type closingCaches struct {
	mu struct {
		sync.Mutex
		caches map[*closingCache]struct{}
	}
}

type closingCache struct {
	key   string
	cache *loggedCache
	done  chan struct{} // closed when it is closed, or taken back
}

// close has a cache closed once nobody uses it.
func (s *closingCaches) close(key string, c *loggedCache) {
	e := &closingCache{key, c, make(chan struct{})}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.caches == nil {
		s.mu.caches = make(map[*closingCache]struct{})
	}
	s.mu.caches[e] = struct{}{}
	end := c.BeginClose() // before takeBack may come
	go func() {
		defer s.leave(e)
		err := end()
		if errors.Is(err, cache.ErrKept) {
			return
		}
		c.quiet.end()
		if err != nil {
			slog.New(currentLog{}).Warn("cache not closed in order: the next start checks each of its files", "cache", key, "error", err)
		}
	}()
}

func (s *closingCaches) leave(e *closingCache) {
	close(e.done)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.mu.caches, e)
}

// closePatience is how long a cache that can't be taken back any more is waited
// for. It has nothing to do but to close its files.
const closePatience = time.Second

// takeBack returns the cache of that key that is waiting for its users, nil if
// there is none. One that is closing already has given its directory up then.
func (s *closingCaches) takeBack(key string) *loggedCache {
	for _, e := range s.all() {
		switch {
		case e.key != key:
		case e.cache.Keep():
			return e.cache
		default:
			within(context.Background(), closePatience, e.wait)
		}
	}
	return nil
}

func (s *closingCaches) all() []*closingCache {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Keys(s.mu.caches))
}

// cut ends what the caches wait for.
func (s *closingCaches) cut() {
	for _, e := range s.all() {
		e.cache.Cut()
	}
}

// wait returns when all are closed.
func (s *closingCaches) wait(ctx context.Context) {
	for _, e := range s.all() {
		e.wait(ctx)
	}
}

func (e *closingCache) wait(ctx context.Context) {
	select {
	case <-e.done:
	case <-ctx.Done():
	}
}
