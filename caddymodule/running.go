package caddymodule

import (
	"maps"
	"slices"
	"sync"

	"github.com/stevedores-org/nix-cache/caddymodule/cache"
	"github.com/stevedores-org/nix-cache/caddymodule/nix"
)

// running has the handlers of the configs that are loaded: during a reload those
// of two.
var running handlerSet

// handlerSet is a set of handlers. Its zero value is empty.
type handlerSet struct {
	mu struct {
		sync.Mutex
		handlers map[*Handler]struct{}
	}
}

func (s *handlerSet) add(h *Handler) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.handlers == nil {
		s.mu.handlers = make(map[*Handler]struct{})
	}
	s.mu.handlers[h] = struct{}{}
}

func (s *handlerSet) remove(h *Handler) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.mu.handlers, h)
}

func (s *handlerSet) all() []*Handler {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Keys(s.mu.handlers))
}

// forget has the caches of a name forget files, and those that share their
// origin, and reports whether there is one of that name.
func (s *handlerSet) forget(name string, paths []nix.CachePath) (known bool) {
	origins := make(map[string]struct{})
	for _, h := range s.all() {
		if h.set.name == name {
			origins[h.origin.String()] = struct{}{}
		}
	}
	for origin := range origins {
		for _, files := range s.over(origin, nil) {
			for _, p := range paths {
				files.Forget(p)
			}
		}
	}
	return len(origins) > 0
}

// over returns an origin's part of each cache but one, nil for none.
func (s *handlerSet) over(origin string, but *pooledCache) map[*pooledCache]*cache.Namespace {
	parts := make(map[*pooledCache]*cache.Namespace)
	for _, h := range s.all() {
		if h.pooled != but && h.origin.String() == origin {
			parts[h.pooled] = h.files
		}
	}
	return parts
}

// parts returns what caches have of h's origin: its own, and others', since two
// handlers over one origin with different tiers know nothing of each other's writes.
func (h *Handler) parts() []*cache.Namespace {
	others := slices.Collect(maps.Values(running.over(h.origin.String(), h.pooled)))
	return append(others, h.files)
}

// damaged reports whether a cache over h's origin has found a file damaged there.
func (h *Handler) isDamaged(p nix.CachePath) bool {
	return slices.ContainsFunc(h.parts(), func(files *cache.Namespace) bool { return files.Damaged(p) })
}

// uploaded has the caches over h's origin drop what is older than what that has.
func (h *Handler) uploaded(p nix.CachePath) {
	for _, files := range h.parts() {
		files.Uploaded(p)
	}
}
