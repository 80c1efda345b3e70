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

// bytes is the cost of all entries.
func (p *policy) bytes() int64 { return p.light.bytes() + p.heavy.bytes() }

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

// evict removes and returns the next victim, nil if there is no entry.
func (p *policy) evict() *entry {
	light, heavy := p.light.oldest(), p.heavy.oldest()
	if heavy == nil || p.light.bytes() > p.lightLimit && light.age(p.clock) > heavy.age(p.clock) {
		return p.light.evict()
	}
	return p.heavy.evict()
}

// age is how often the clock has counted since the entry was pushed. The clock
// may overflow meanwhile.
func (e *entry) age(now uint32) uint32 { return now - e.since }
