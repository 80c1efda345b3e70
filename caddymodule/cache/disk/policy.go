package disk

// policy is the eviction policy: S3-FIFO, once for light files and once for
// heavy ones. One heavy NAR takes the space of a hundred thousand narinfos, each
// of which spares a client the same trip to the origin, so light files have a
// share of the space of their own and make way for each other only.
type policy struct {
	light, heavy s3fifo
}

const (
	lightSize  = 64 << 10 // the most bytes of a light file
	lightShare = 10       // light files are safe up to one in lightShare of the limit
)

func (p *policy) setLimit(limit int64) {
	p.light.limit = limit / lightShare
	p.heavy.limit = limit - p.light.limit
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

func (p *policy) remove(e *entry) { p.queue(e.in).remove(e) }

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
		p.queue(id).id = id
	}
}

// evict removes and returns the next victim, nil if there is no entry.
func (p *policy) evict() *entry {
	if p.light.bytes() > p.light.limit || p.heavy.bytes() == 0 {
		return p.light.evict()
	}
	return p.heavy.evict()
}
