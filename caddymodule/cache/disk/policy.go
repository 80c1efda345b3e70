package disk

// policy is the eviction policy: S3-FIFO, once for light files and once for
// heavy ones. One heavy NAR takes the space of a hundred thousand narinfos, each
// of which spares a client the same trip to the origin, so light files have a
// share of the space of their own. Beyond it, files of both kinds stay equally
// long.
type policy struct {
	light, heavy s3fifo
	lightLimit   int64  // in bytes
	clock        uint32 // of all queues
}

const (
	lightSize  = 64 << 10 // the most bytes of a light file
	lightShare = 32       // light files are safe up to one in lightShare of the limit
)

func (p *policy) setLimit(limit int64) {
	p.lightLimit = limit / lightShare
}

// need says what may have to go for something new.
type need uint8

const (
	asked   need = iota // somebody waits for it: whatever the policy evicts next
	offered             // nobody has asked for it yet: what is in the small queues
	spooled             // it lies beside the tier's files, for a while: the same
)

// free is the cost of all entries that may be evicted for something new, some of
// which may turn out to be spared.
func (p *policy) free(n need) int64 {
	switch {
	case n == asked:
		return p.light.free() + p.heavy.free()
	case p.light.bytes() > p.lightLimit:
		return p.light.small.free() + p.heavy.small.free()
	default:
		return p.heavy.small.free()
	}
}

// pin keeps an entry from being evicted, if it is the first time that it is
// opened, and unpin undoes that when it is closed for the last time.
func (p *policy) pin(e *entry) {
	e.open++
	if e.open == 1 && e.in != noQueue {
		p.queue(e.in).pinned += e.cost()
	}
}

func (p *policy) unpin(e *entry) {
	e.open--
	if e.open == 0 && e.in != noQueue {
		p.queue(e.in).pinned -= e.cost()
	}
}

func (p *policy) insert(e *entry) {
	if e.size <= lightSize {
		p.light.insert(e)
	} else {
		p.heavy.insert(e)
	}
}

// remove forgets the entry, if it knows it.
func (p *policy) remove(e *entry) {
	if e.in != noQueue {
		p.queue(e.in).remove(e)
	}
}

// queueID names the queue an entry is in.
type queueID uint8

const (
	noQueue queueID = iota
	lightSmall
	lightMain
	heavySmall
	heavyMain
)

func (p *policy) queue(id queueID) *queue {
	return [...]*queue{lightSmall: &p.light.small, lightMain: &p.light.main, heavySmall: &p.heavy.small, heavyMain: &p.heavy.main}[id]
}

func (p *policy) init() {
	for id := lightSmall; id <= heavyMain; id++ {
		p.queue(id).id, p.queue(id).clock = id, &p.clock
	}
}

// evict removes and returns the next victim, nil if there is none.
func (p *policy) evict(n need) *entry {
	if n != asked {
		return p.evictSmall()
	}
	if p.heavy.free() == 0 || p.light.free() > 0 && p.light.bytes() > p.lightLimit &&
		p.light.oldest().age(p.clock) > p.heavy.oldest().age(p.clock) {
		return p.light.evict()
	}
	return p.heavy.evict()
}

func (p *policy) evictSmall() *entry {
	if e := p.heavy.evictSmall(); e != nil || p.light.bytes() <= p.lightLimit {
		return e
	}
	return p.light.evictSmall()
}

// evictLight is evict where what counts is that a file goes, not how large it is.
func (p *policy) evictLight(n need) *entry {
	if n == asked && p.light.free() > 0 {
		return p.light.evict()
	}
	return p.evict(n)
}

// age is how often the clock has counted since the entry was pushed. The clock
// may overflow meanwhile.
func (e *entry) age(now uint32) uint32 { return now - e.since }
