package disk

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// policyOf returns a policy for n entries of one block each.
func policyOf(n int) *s3fifo {
	p := &s3fifo{limit: int64(n) * costOf(1)}
	p.small.id, p.main.id = heavySmall, heavyMain
	return p
}

func entryOf(key string) *entry { return newEntry(key, key, 1) }

// admit enters an entry as the tier does: first, others make way.
func (p *s3fifo) admit(e *entry) (evicted []string) {
	for p.bytes()+e.cost() > p.limit {
		evicted = append(evicted, p.evict().key())
	}
	p.insert(e)
	return evicted
}

func TestOneHitWondersLeaveFirst(t *testing.T) {
	p := policyOf(20)
	wanted := make([]*entry, 10)
	for i := range wanted {
		wanted[i] = entryOf(fmt.Sprint("wanted", i))
		p.admit(wanted[i])
		wanted[i].touch()
	}
	var evicted []string
	for i := range 500 {
		evicted = append(evicted, p.admit(entryOf(fmt.Sprint("once", i)))...)
	}
	for _, e := range wanted {
		if slices.Contains(evicted, e.key()) {
			t.Errorf("%s was evicted by a scan of files that nobody asks for twice", e.key())
		}
	}
	for i, key := range evicted {
		if key != fmt.Sprint("once", i) {
			t.Fatalf("evicted: %v; want the files in the order they came", evicted)
		}
	}
}

func TestAGhostComesBackToMain(t *testing.T) {
	p := policyOf(20)
	p.admit(entryOf("back"))
	var evicted []string
	for i := 0; !slices.Contains(evicted, "back"); i++ {
		evicted = append(evicted, p.admit(entryOf(fmt.Sprint("once", i)))...)
	}
	back := entryOf("back")
	p.admit(back)
	if back.in != p.main.id {
		t.Fatal("a file that is asked for shortly after it left starts anew in the small queue")
	}
	for i := range 500 {
		if slices.Contains(p.admit(entryOf(fmt.Sprint("more", i))), "back") {
			t.Fatal("evicted by a scan")
		}
	}
	other := entryOf("other")
	p.admit(other)
	if other.in != p.small.id {
		t.Error("a new file does not start in the small queue")
	}
}

func TestGhostsFade(t *testing.T) {
	p := policyOf(20)
	p.admit(entryOf("old"))
	for i := range 500 {
		p.admit(entryOf(fmt.Sprint("once", i)))
	}
	if old := entryOf("old"); p.ghost.take(old.key()) {
		t.Error("a file that left long ago is remembered")
	}
	if n := len(p.ghost.known); n > 18 {
		t.Errorf("%d ghosts, more than nine tenths of the 20 that fit", n)
	}
}

func TestMainGivesSecondChances(t *testing.T) {
	p := policyOf(10)
	for _, key := range []string{"a", "b", "c"} {
		e := entryOf(key)
		p.insert(e)
		e.touch()
	}
	for p.small.tail != nil { // all are promoted
		e := p.small.pop()
		e.freq = 0
		p.main.push(e)
	}
	p.main.tail.touch() // a
	var order []string
	for e := p.evict(); e != nil; e = p.evict() {
		order = append(order, e.key())
	}
	if !slices.Equal(order, []string{"b", "c", "a"}) {
		t.Errorf("evicted %v, want b, c, and last the one that was asked for", order)
	}
}

// TestQueuesAddUp does random things to a policy, and compares its queues with
// what a plain count says.
func TestQueuesAddUp(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	p := policyOf(50)
	var there []*entry
	leave := func(e *entry) {
		i := slices.Index(there, e)
		if i < 0 {
			t.Fatalf("evicted %s, which is not there", e.key())
		}
		there = slices.Delete(there, i, i+1)
	}
	for step := range 20000 {
		switch op := r.IntN(10); {
		case op < 4:
			e := entryOf(fmt.Sprint(r.IntN(300)))
			e.size = r.Int64N(10 * blockSize)
			p.insert(e)
			there = append(there, e)
		case op < 7 && len(there) > 0:
			there[r.IntN(len(there))].touch()
		case op == 7 && len(there) > 0:
			e := there[r.IntN(len(there))]
			map[queueID]*queue{p.small.id: &p.small, p.main.id: &p.main}[e.in].remove(e)
			leave(e)
		case op == 8:
			p.limit = int64(1+r.IntN(100)) * blockSize
		default:
			e := p.evict()
			if e != nil {
				leave(e)
			} else if len(there) > 0 {
				t.Fatalf("step %d: nothing to evict, with %d entries there", step, len(there))
			}
		}
		checkQueues(t, p, there)
		if t.Failed() {
			t.Fatalf("after step %d", step)
		}
	}
}

func checkQueues(t *testing.T, p *s3fifo, there []*entry) {
	var want, got int64
	for _, e := range there {
		want += e.cost()
	}
	n := 0
	for _, q := range []*queue{&p.small, &p.main} {
		var sum int64
		var last *entry
		for e := q.head; e != nil; last, e = e, e.next {
			if e.in != q.id || e.prev != last {
				t.Errorf("%s is linked wrongly", e.key())
			}
			sum += e.cost()
			n++
		}
		if q.tail != last || q.bytes != sum {
			t.Errorf("a queue says %d bytes, its entries %d", q.bytes, sum)
		}
		got += sum
	}
	if got != want || n != len(there) || p.bytes() != want {
		t.Errorf("the queues have %d entries of %d bytes, want %d of %d", n, got, len(there), want)
	}
	var ghosts int64
	for _, g := range p.ghost.fifo {
		ghosts += g.cost
	}
	if ghosts != p.ghost.bytes || len(p.ghost.known) > len(p.ghost.fifo) {
		t.Errorf("ghosts: %d bytes, counted as %d; %d known of %d", ghosts, p.ghost.bytes, len(p.ghost.known), len(p.ghost.fifo))
	}
}
