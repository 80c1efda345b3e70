package caddymodule

import (
	"maps"
	"slices"
	"sync"

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

// forget has the caches of a name forget files, and reports whether there is one.
func (s *handlerSet) forget(name string, paths []nix.CachePath) bool {
	known := false
	for _, h := range s.all() {
		if h.set.name != name {
			continue
		}
		known = true
		for _, p := range paths {
			h.files.Forget(p)
		}
	}
	return known
}
