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
	for p.free(asked)+e.cost() > limit {
		evicted = append(evicted, p.evict(asked))
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
	for i := range 5000 { // 20 MB of narinfos that nobody has asked for again
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
	for i := range 1_000_000 { // 4.1 GB of narinfos, and 41 of NARs
		p.admit(sized("light", i, 1000), limit)
		if i%10_000 == 0 {
			p.admit(sized("heavy", i, 410<<20), limit)
		}
	}
	if p.heavy.bytes() < 1<<29 || p.light.bytes() < limit/lightShare {
		t.Errorf("%d bytes of heavy and %d of light files", p.heavy.bytes(), p.light.bytes())
	}
}

// Files of both kinds are needed for as long if all of them are asked for once.
func TestBothKindsStayEquallyLong(t *testing.T) {
	const limit = 1 << 30
	p := newPolicy(limit)
	var light, heavy int
	for i := range 100_000 { // as many bytes of the one kind as of the other
		p.admit(sized("light", i, lightSize), limit)
		p.admit(sized("heavy", i, lightSize+1), limit)
	}
	light, heavy = p.light.small.len+p.light.main.len, p.heavy.small.len+p.heavy.main.len
	if light < heavy*4/5 || heavy < light*4/5 {
		t.Errorf("%d light files are there and %d heavy ones, want as many", light, heavy)
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
	for p.evict(asked) != nil {
		n++
	}
	if n != 200 || p.free(asked) != 0 {
		t.Errorf("%d of 200 entries evicted, %d bytes left", n, p.free(asked))
	}
}
