package origintest

import (
	"context"
	"sync"
	"sync/atomic"
)

// Gate keeps operations of a Memory waiting until it is released or their
// context ends.
type Gate struct {
	method string // "" for a body
	path   string // "": any
	offset int64  // of the object's byte that a body doesn't get past

	reached  chan struct{}
	released chan struct{}
	reach    sync.Once
	release  sync.Once
	narrowed atomic.Bool
}

// Hold keeps operations waiting before they take place, those of a method (as
// named at Ops) on path, or on any path if it is "".
func (m *Memory) Hold(method, path string) *Gate {
	return m.addGate(&Gate{method: method, path: path})
}

// HoldBody keeps reads of bodies of path (any path if it is "") waiting where
// they come to the object's byte at offset. They get the bytes before it; a body
// that begins behind it is not held.
func (m *Memory) HoldBody(path string, offset int64) *Gate {
	return m.addGate(&Gate{path: path, offset: offset})
}

func (m *Memory) addGate(g *Gate) *Gate {
	g.reached = make(chan struct{})
	g.released = make(chan struct{})
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mu.gates = append(m.mu.gates, g)
	return g
}

// Reached is closed when the first operation waits at the gate.
func (g *Gate) Reached() <-chan struct{} { return g.reached }

// Release lets all operations through, those to come as well. It may be called
// more than once.
func (g *Gate) Release() { g.release.Do(func() { close(g.released) }) }

// HoldNoMore lets operations to come pass; those that wait already go on
// waiting for Release.
func (g *Gate) HoldNoMore() { g.narrowed.Store(true) }

func (g *Gate) holds(method, path string) bool {
	return !g.narrowed.Load() && g.method == method && (g.path == "" || g.path == path) && !g.open()
}

func (g *Gate) open() bool {
	select {
	case <-g.released:
		return true
	default:
		return false
	}
}

func (g *Gate) wait(ctx context.Context) {
	g.reach.Do(func() { close(g.reached) })
	select {
	case <-g.released:
	case <-ctx.Done():
	}
}
