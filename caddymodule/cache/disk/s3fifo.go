package disk

import "hash/maphash"

// s3fifo decides which file is evicted: S3-FIFO (Yang et al., "FIFO queues are
// all you need for cache eviction", SOSP 2023), counted in bytes. New files
// pass through a small queue, so that what is asked for once leaves soon; what
// is asked for again, there or shortly after, lives in the main queue.
//
// Nix clients keep a store of their own, so each asks once for each file: what
// counts is how many clients still will, which recency tells better than
// frequency does. So, other than there, one more request is enough for main, and
// a ghost is forgotten sooner: a file that comes back late does so once.
type s3fifo struct {
	small, main queue
	ghost       ghost
}

const (
	smallShare = 10 // the small queue keeps one in smallShare of all bytes
	maxFreq    = 3
)

// bytes is the cost of all entries.
func (p *s3fifo) bytes() int64 { return p.small.bytes + p.main.bytes }

// free is the cost of those that can be evicted.
func (p *s3fifo) free() int64 { return p.small.free() + p.main.free() }

// touch notes that somebody asked for the entry.
func (e *entry) touch() { e.freq = min(e.freq+1, maxFreq) }

func (p *s3fifo) insert(e *entry) {
	if p.ghost.take(e.key()) {
		p.main.push(e)
	} else {
		p.small.push(e)
	}
}

// evict removes and returns the next victim, nil if there is none.
func (p *s3fifo) evict() *entry {
	for p.free() > 0 {
		if p.main.free() == 0 || p.small.bytes > p.bytes()/smallShare && p.small.free() > 0 {
			if e := p.popSmall(); e != nil {
				return e
			}
			continue
		}
		e := p.main.pop()
		if e.freq == 0 {
			return e
		}
		e.freq--
		p.main.push(e)
	}
	return nil
}

// evictSmall is evict, but takes nothing out of the main queue.
func (p *s3fifo) evictSmall() *entry {
	for p.small.free() > 0 {
		if e := p.popSmall(); e != nil {
			return e
		}
	}
	return nil
}

// popSmall removes the next entry of the small queue, and returns it unless it
// has been asked for again: then it is in main from now on.
func (p *s3fifo) popSmall() *entry {
	e := p.small.pop()
	if e.freq == 0 {
		p.ghost.add(e.key(), p.small.len+p.main.len)
		return e
	}
	e.freq = 0
	p.main.push(e)
	return nil
}

// oldest is the entry that has been there for longest since it came, or was
// spared; nil if there is none.
func (p *s3fifo) oldest() *entry {
	if p.main.len > 0 {
		return p.main.tail
	}
	return p.small.tail
}

// queue is a doubly linked list that counts its entries and adds up their costs.
type queue struct {
	id         queueID
	clock      *uint32 // counts pushes
	head, tail *entry
	len        int
	bytes      int64
	pinned     int64 // the part of it that is of entries which are open
}

// free is the cost of the entries that are not open.
func (q *queue) free() int64 { return q.bytes - q.pinned }

func (q *queue) push(e *entry) {
	*q.clock++
	e.in, e.since, e.prev, e.next = q.id, *q.clock, nil, q.head
	if q.head != nil {
		q.head.prev = e
	} else {
		q.tail = e
	}
	q.head = e
	q.len++
	q.bytes += e.cost()
	q.pinned += e.pinned()
}

// pop removes the last entry that is not open: there must be one. Those that are
// open it passes over, to the head.
func (q *queue) pop() *entry {
	for q.tail.open > 0 {
		e := q.tail
		q.remove(e)
		q.push(e)
	}
	e := q.tail
	q.remove(e)
	return e
}

func (q *queue) remove(e *entry) {
	if e.prev != nil {
		e.prev.next = e.next
	} else {
		q.head = e.next
	}
	if e.next != nil {
		e.next.prev = e.prev
	} else {
		q.tail = e.prev
	}
	q.len--
	q.bytes -= e.cost()
	q.pinned -= e.pinned()
	e.in, e.prev, e.next = noQueue, nil, nil
}

// ghost remembers the keys, by hash, of the files that left the small queue
// last: at least one for ghostShare entries, at most two. So its memory goes
// with that of the entries, however large the limit is.
type ghost struct {
	seed       maphash.Seed
	young, old map[uint64]struct{}
}

const ghostShare = 4

// add remembers a key, with so many entries there.
func (g *ghost) add(key string, entries int) {
	if g.young == nil {
		g.seed, g.young = maphash.MakeSeed(), make(map[uint64]struct{})
	}
	g.young[maphash.String(g.seed, key)] = struct{}{}
	if len(g.young) > entries/ghostShare {
		g.young, g.old = make(map[uint64]struct{}), g.young
	}
}

// take reports whether the key is remembered, and forgets it.
func (g *ghost) take(key string) bool {
	if g.young == nil {
		return false
	}
	h := maphash.String(g.seed, key)
	_, young := g.young[h]
	_, old := g.old[h]
	delete(g.young, h)
	delete(g.old, h)
	return young || old
}
