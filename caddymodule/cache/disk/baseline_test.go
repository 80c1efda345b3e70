package disk

import "container/list"

// cache is an eviction policy that is told of each request and says whether it
// had the object.
type cache interface {
	ask(object int32, size int64) (hit bool)
}

// tiered is the policy of the tier.
type tiered struct {
	*policy
	limit   int64
	entries map[string]*entry
}

func newTiered(limit int64) cache {
	return &tiered{policy: newPolicy(limit), limit: limit, entries: make(map[string]*entry)}
}

// ask enters what is missing as the tier does: others make way before it is
// fetched.
func (c *tiered) ask(object int32, size int64) bool {
	key := string([]byte{byte(object), byte(object >> 8), byte(object >> 16), byte(object >> 24)})
	if e := c.entries[key]; e != nil {
		e.touch()
		return true
	}
	e := newEntry(key, key, size)
	if e.cost() > c.limit {
		return false
	}
	for _, out := range c.admit(e, c.limit) {
		delete(c.entries, out.key())
	}
	c.entries[key] = e
	return false
}

// lru evicts what has not been asked for for the longest time.
type lru struct {
	limit, bytes int64
	entries      map[int32]*list.Element
	list         list.List // of node, the latest first
}

type node struct {
	object int32
	cost   int64
	freq   int
}

func newLRU(limit int64) cache {
	return &lru{limit: limit, entries: make(map[int32]*list.Element)}
}

func (c *lru) ask(object int32, size int64) bool {
	if at := c.entries[object]; at != nil {
		c.list.MoveToFront(at)
		return true
	}
	cost := costOf(size)
	if cost > c.limit {
		return false
	}
	for c.bytes += cost; c.bytes > c.limit; {
		out := c.list.Remove(c.list.Back()).(node)
		delete(c.entries, out.object)
		c.bytes -= out.cost
	}
	c.entries[object] = c.list.PushFront(node{object: object, cost: cost})
	return false
}

// textbook is S3-FIFO as published, counted in bytes: one tenth is the small
// queue, what was asked for twice more there is promoted, and as many bytes of
// ghosts are remembered as the main queue has.
type textbook struct {
	limit              int64
	promote            int // the requests after the first that promote
	small, main, ghost fifo
}

type fifo struct {
	bytes int64
	list  list.List // of *node, the latest first
	at    map[int32]*list.Element
}

func (q *fifo) push(n *node) {
	if q.at == nil {
		q.at = make(map[int32]*list.Element)
	}
	q.at[n.object] = q.list.PushFront(n)
	q.bytes += n.cost
}

func (q *fifo) take(at *list.Element) *node {
	n := q.list.Remove(at).(*node)
	delete(q.at, n.object)
	q.bytes -= n.cost
	return n
}

func newTextbook(limit int64) cache { return &textbook{limit: limit, promote: 2} }

func newEager(limit int64) cache { return &textbook{limit: limit, promote: 1} }

func (c *textbook) ask(object int32, size int64) bool {
	for _, q := range []*fifo{&c.small, &c.main} {
		if at := q.at[object]; at != nil {
			n := at.Value.(*node)
			n.freq = min(n.freq+1, 3)
			return true
		}
	}
	n := &node{object: object, cost: costOf(size)}
	if n.cost > c.limit {
		return false
	}
	for c.small.bytes+c.main.bytes+n.cost > c.limit {
		c.evict()
	}
	if at := c.ghost.at[object]; at != nil {
		c.ghost.take(at)
		c.main.push(n)
	} else {
		c.small.push(n)
	}
	return false
}

// evict takes a step towards an eviction.
func (c *textbook) evict() {
	if c.small.bytes >= c.limit/10 || c.main.bytes == 0 {
		n := c.small.take(c.small.list.Back())
		if n.freq >= c.promote {
			n.freq = 0
			c.main.push(n)
			return
		}
		n.freq = 0
		for c.ghost.push(n); c.ghost.bytes > c.limit-c.limit/10; {
			c.ghost.take(c.ghost.list.Back())
		}
		return
	}
	n := c.main.take(c.main.list.Back())
	if n.freq > 0 {
		n.freq--
		c.main.push(n)
	}
}
