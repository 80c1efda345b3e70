package cache

import (
	"log/slog"
	"sync"

	"github.com/dgraph-io/ristretto/v2"

	"github.com/stevedores-org/nix-cache/caddymodule/cache/disk"
)

// small is a small file in memory. It is immutable.
type small struct {
	body []byte
	tag  string
}

// memory is the tier in memory: ristretto, held to what it is good at. It holds
// small files only, since it admits without regard to size and what waits for
// admission is outside its limit. A set may be dropped or come into effect
// late, so absence from it means "ask the disk", never "ask the origin".
//
// A zero memory is closed: it holds nothing.
type memory struct {
	mu    sync.RWMutex // held for writing by open and close only: ristretto panics if it is closed while in use
	cache *ristretto.Cache[string, *small]
}

const (
	smallOverhead = 200  // bytes of memory an entry takes beside its body
	smallTypical  = 1300 // bytes in all of a typical narinfo's entry
)

func (m *memory) open(limit int64, log *slog.Logger) {
	if limit <= 0 {
		return
	}
	cache, err := ristretto.NewCache(&ristretto.Config[string, *small]{
		NumCounters:        max(10*limit/smallTypical, 1000),
		MaxCost:            limit,
		BufferItems:        64,
		Metrics:            true,
		IgnoreInternalCost: true,
	})
	if err != nil {
		log.Error("serving without the memory tier", "error", err)
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.cache = cache
}

func (m *memory) close() {
	m.mu.Lock()
	defer m.mu.Unlock()
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
		m.cache.Set(key, s, int64(cap(s.body))+smallOverhead)
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

// setLimit is for a tier that is on and stays on; to turn it on or off takes a
// new cache.
func (m *memory) setLimit(limit int64) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if m.cache != nil && limit > 0 {
		m.cache.UpdateMaxCost(limit)
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
		Evictions: in.KeysEvicted(),
	}
}
