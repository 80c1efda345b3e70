package disk

import "hash/maphash"

// s3fifo decides which file is evicted: S3-FIFO (Yang et al., "FIFO queues are
// all you need for cache eviction", SOSP 2023), counted in bytes. New files
// pass through a small queue, so that what is asked for once leaves soon; what
// is asked for again, there or shortly after, lives in the main queue.
//
// Nix clients keep a store of their own, so each asks once for each file: what
// counts is how many clients still will, which recency tells better than
// frequency does.
type s3fifo struct {
	small, main queue
	ghost       ghost
	limit       int64
}

const (
	smallShare = 10 // the small queue's part of the limit is one in smallShare
	maxFreq    = 3
)

// bytes is the cost of all entries.
func (p *s3fifo) bytes() int64 { return p.small.bytes + p.main.bytes }

// touch notes that somebody asked for the entry.
func (e *entry) touch() { e.freq = min(e.freq+1, maxFreq) }

func (p *s3fifo) insert(e *entry) {
	if p.ghost.take(e.key()) {
		p.main.push(e)
	} else {
		p.small.push(e)
	}
}

// evict removes and returns the next victim, nil if there is no entry.
func (p *s3fifo) evict() *entry {
	for {
		fromSmall := p.small.bytes > p.limit/smallShare || p.main.bytes == 0
		switch {
		case fromSmall && p.small.tail == nil, !fromSmall && p.main.tail == nil:
			return nil
		case fromSmall:
			e := p.small.pop()
			if e.freq == 0 {
				p.ghost.add(e, p.limit-p.limit/smallShare)
				return e
			}
			e.freq = 0
			p.main.push(e)
		default:
			e := p.main.pop()
			if e.freq == 0 {
				return e
			}
			e.freq--
			p.main.push(e)
		}
	}
}

// queue is a doubly linked list that adds up its entries' costs.
type queue struct {
	id         queueID
	head, tail *entry
	bytes      int64
}

func (q *queue) push(e *entry) {
	e.in, e.prev, e.next = q.id, nil, q.head
	if q.head != nil {
		q.head.prev = e
	} else {
		q.tail = e
	}
	q.head = e
	q.bytes += e.cost()
}

func (q *queue) pop() *entry {
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
	q.bytes -= e.cost()
	e.in, e.prev, e.next = noQueue, nil, nil
}

// ghost remembers the keys, by hash, of files that left the small queue.
type ghost struct {
	seed  maphash.Seed
	fifo  []ghostEntry
	known map[uint64]uint64 // key hash to the serial of its latest ghostEntry
	next  uint64
	bytes int64
}

type ghostEntry struct {
	hash, serial uint64
	cost         int64
}

func (g *ghost) add(e *entry, limit int64) {
	if g.known == nil {
		g.seed, g.known = maphash.MakeSeed(), make(map[uint64]uint64)
	}
	g.next++
	h := maphash.String(g.seed, e.key())
	g.fifo = append(g.fifo, ghostEntry{h, g.next, e.cost()})
	g.known[h] = g.next
	g.bytes += e.cost()
	for g.bytes > limit && len(g.fifo) > 0 {
		oldest := g.fifo[0]
		g.fifo = g.fifo[1:]
		g.bytes -= oldest.cost
		if g.known[oldest.hash] == oldest.serial {
			delete(g.known, oldest.hash)
		}
	}
}

// take reports whether the key is remembered, and forgets it.
func (g *ghost) take(key string) bool {
	if g.known == nil {
		return false
	}
	h := maphash.String(g.seed, key)
	_, ok := g.known[h]
	delete(g.known, h)
	return ok
}
