package cache

import (
	"sync"
	"sync/atomic"

	"github.com/dgraph-io/ristretto/v2"

	"github.com/stevedores-org/nix-cache/caddymodule/cache/disk"
)

// small is a small file in memory. It is immutable.
type small struct {
	body []byte
	tag  string

	acceptedBy string // the name of the Verification that has accepted it
}

// memory is the tier in memory: ristretto, held to what it is good at. It holds
// small files only, since it admits without regard to size and what waits for
// admission is outside its limit. A set may be dropped or come into effect
// late, so absence from it means "ask the disk", never "ask the origin".
//
// A zero memory is closed: it holds nothing.
type memory struct {
	mu    sync.RWMutex // held for writing by setLimit only: ristretto panics if it is closed while in use
	cache *ristretto.Cache[string, *small]

	// evicted counts what cache has evicted to make room. Its own metrics count
	// what was removed for whichever reason. Each cache has its own counter,
	// since one that closes takes what it drops for evicted, too.
	evicted *atomic.Uint64
}

func (s *small) info() Info { return Info{Size: int64(len(s.body)), Tag: s.tag} }

const (
	smallOverhead = 360  // bytes of memory an entry takes beside its body: key, tag, ristretto's own
	smallTypical  = 2600 // cost of a typical narinfo
)

// cost is what an entry takes of the process's memory. The garbage collector
// lets the heap grow to twice what is alive before it collects, by default.
func (s *small) cost() int64 { return 2 * (int64(cap(s.body)) + smallOverhead) }

// setLimit changes the limit; 0 closes the tier.
func (m *memory) setLimit(limit int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case limit <= 0:
		m.closeLocked()
	case m.cache != nil:
		m.cache.UpdateMaxCost(limit)
	default:
		return m.openLocked(limit)
	}
	return nil
}

func (m *memory) openLocked(limit int64) (err error) {
	evicted := new(atomic.Uint64)
	m.evicted = evicted
	m.cache, err = ristretto.NewCache(&ristretto.Config[string, *small]{
		NumCounters:        max(10*limit/smallTypical, 1000),
		MaxCost:            limit,
		BufferItems:        64,
		Metrics:            true,
		IgnoreInternalCost: true,
		OnEvict:            func(*ristretto.Item[*small]) { evicted.Add(1) },
	})
	return err
}

func (m *memory) closeLocked() {
	if m.cache != nil {
		m.cache.Close()
		m.cache = nil
	}
}

func (m *memory) get(key string) (*small, bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if m.cache == nil {
		return nil, false
	}
	return m.cache.Get(key)
}

func (m *memory) set(key string, s *small) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if m.cache != nil {
		m.cache.Set(key, s, s.cost())
	}
}

// settle waits until earlier sets have come into effect.
func (m *memory) settle() {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if m.cache != nil {
		m.cache.Wait()
	}
}

// forget removes key, a set that is still under way included.
func (m *memory) forget(key string) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if m.cache != nil {
		m.cache.Del(key)
		m.cache.Wait()
	}
}

func (m *memory) counters() disk.Counters {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if m.cache == nil {
		return disk.Counters{}
	}
	in := m.cache.Metrics
	return disk.Counters{
		Bytes:     int64(in.CostAdded() - in.CostEvicted()),
		Entries:   int64(in.KeysAdded() - in.KeysEvicted()),
		Limit:     m.cache.MaxCost(),
		Evictions: m.evicted.Load(),
	}
}
