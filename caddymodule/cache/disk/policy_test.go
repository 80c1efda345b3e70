package disk

import (
	"fmt"
	"testing"
)

// newPolicy returns a policy for so many bytes.
func newPolicy(limit int64) *policy {
	p := new(policy)
	p.init()
	p.setLimit(limit)
	return p
}

// admit enters an entry as the tier does: first, others make way.
func (p *policy) admit(e *entry, limit int64) (evicted []*entry) {
	for p.bytes()+e.cost() > limit {
		evicted = append(evicted, p.evict())
	}
	p.insert(e)
	return evicted
}

func sized(name string, i int, size int64) *entry {
	key := fmt.Sprint(name, i)
	return newEntry(key, key, size)
}

func TestHeavyFilesDoNotPushOutLightOnes(t *testing.T) {
	const limit = 1 << 30
	p := newPolicy(limit)
	for i := range 10_000 { // 41 MB of narinfos that nobody has asked for again
		p.admit(sized("light", i, 1000), limit)
	}
	for i := range 100 {
		for _, e := range p.admit(sized("heavy", i, 300<<20), limit) {
			if e.size <= lightSize {
				t.Fatalf("%s made way for a NAR", e.name)
			}
		}
	}
}

func TestLightFilesDoNotFillTheTier(t *testing.T) {
	const limit = 1 << 30
	p := newPolicy(limit)
	for i := range 5 {
		p.admit(sized("heavy", i, 180<<20), limit)
	}
	for i := range 100_000 { // 410 MB
		for _, e := range p.admit(sized("light", i, 1000), limit) {
			if e.size > lightSize {
				t.Fatalf("%s made way for narinfos beyond their share", e.name)
			}
		}
	}
	if p.heavy.bytes() < 900<<20 || p.light.bytes() < limit/lightShare {
		t.Errorf("%d bytes of heavy and %d of light files", p.heavy.bytes(), p.light.bytes())
	}
}

func TestPolicyEvictsEverything(t *testing.T) {
	const limit = 1 << 20
	p := newPolicy(limit)
	for i := range 100 {
		p.insert(sized("light", i, 100))
		p.insert(sized("heavy", i, lightSize+1))
	}
	n := 0
	for p.evict() != nil {
		n++
	}
	if n != 200 || p.bytes() != 0 {
		t.Errorf("%d of 200 entries evicted, %d bytes left", n, p.bytes())
	}
}
