// Package bounded has a map that forgets its oldest entries, for what strangers
// make a server remember.
package bounded

import "sync"

// Map has at most so many entries: beyond that it forgets those whose keys came
// first. All methods may be called concurrently.
type Map[K comparable, V any] struct {
	most int
	mu   struct {
		sync.Mutex
		entries map[K]V
		order   []K // oldest first
	}
}

// NewMap returns an empty map for at most so many entries, one at least.
func NewMap[K comparable, V any](most int) *Map[K, V] {
	m := &Map[K, V]{most: max(most, 1)}
	m.mu.entries = make(map[K]V)
	return m
}

// Get returns the value for a key, and whether there is one.
func (m *Map[K, V]) Get(key K) (V, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	value, ok := m.mu.entries[key]
	return value, ok
}

// Set sets the value for a key, and returns the one before it, if there was one.
// A key that is there already keeps its age.
func (m *Map[K, V]) Set(key K, value V) (before V, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	before, ok = m.mu.entries[key]
	m.mu.entries[key] = value
	if ok {
		return before, true
	}
	m.mu.order = append(m.mu.order, key)
	if len(m.mu.order) > m.most {
		delete(m.mu.entries, m.mu.order[0])
		m.mu.order = m.mu.order[1:]
	}
	return before, false
}
