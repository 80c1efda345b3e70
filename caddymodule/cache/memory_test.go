package cache

import (
	"fmt"
	"testing"
)

// TestMemoryCountsEvictions: what was forgotten, replaced or dropped by a tier
// that closes did not have to make room.
func TestMemoryCountsEvictions(t *testing.T) {
	const limit = 1 << 20
	m := new(memory)
	if err := m.setLimit(limit); err != nil {
		t.Fatal(err)
	}
	file := &small{body: make([]byte, 2000), tag: "t"}
	for i := range 20 {
		key := fmt.Sprint(i)
		m.set(key, file)
		m.settle()
		m.set(key, file)
		m.forget(key)
	}
	if c := m.counters(); c.Evictions != 0 || c.Entries != 0 || c.Bytes != 0 {
		t.Errorf("after forgetting all there is: %+v", c)
	}
	const sets = 1000
	for i := range sets {
		m.set(fmt.Sprint(i), file)
		m.settle()
	}
	c := m.counters()
	if c.Evictions == 0 || c.Evictions > uint64(sets-c.Entries) || c.Bytes > limit {
		t.Errorf("after %d files, more than there is room for: %+v", sets, c)
	}
	for _, l := range []int64{0, limit} {
		if err := m.setLimit(l); err != nil {
			t.Fatal(err)
		}
	}
	if c := m.counters(); c.Evictions != 0 || c.Entries != 0 {
		t.Errorf("a tier that was closed and opened: %+v", c)
	}
	if err := m.setLimit(0); err != nil {
		t.Fatal(err)
	}
}
