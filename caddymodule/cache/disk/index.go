package disk

import "sync"

const (
	blockSize = 4096 // files take up whole blocks of the file system
	nameCost  = 256  // an entry's share of its directory, which grows with it

	// What the directories themselves take up: dir, staging, objects and shards.
	baseCost = (3 + shardCount) * blockSize
)

// MinBytes is the least that Limits.Bytes can sensibly be.
const MinBytes = 4 * baseCost

// entry is one file under objects/. Fields are guarded by index.mu.
type entry struct {
	name string // of the file
	key  string // shares name's memory
	meta Meta

	// The eviction policy's own.
	freq       uint8
	in         *queue
	prev, next *entry
}

func (e *entry) cost() int64 { return costOf(e.meta.Size) }

// costOf is what a file of that size takes up on disk.
func costOf(size int64) int64 {
	return (size+blockSize-1)/blockSize*blockSize + nameCost
}

// index knows every file of the tier and the space it takes. An entry's cost
// stays reserved from before its file is written until after it is deleted.
type index struct {
	mu struct {
		sync.Mutex
		entries   map[string]*entry // by key
		policy    s3fifo
		limits    Limits
		reserved  int64
		evictions uint64
	}
}

func (x *index) init(limits Limits) {
	x.mu.entries = make(map[string]*entry)
	x.mu.limits = limits
	x.mu.policy.setLimit(limits.Bytes)
	x.mu.reserved = baseCost
}

// use looks a key up for a reader, which the eviction policy takes note of.
func (x *index) use(key string) (name string, meta Meta, ok bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	e, ok := x.mu.entries[key]
	if !ok {
		return "", Meta{}, false
	}
	x.mu.policy.touch(e)
	return e.name, e.meta, true
}

// peek looks a key up without a trace.
func (x *index) peek(key string) (Meta, bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	e, ok := x.mu.entries[key]
	if !ok {
		return Meta{}, false
	}
	return e.meta, true
}

// add enters a file whose cost is reserved. It is refused if the key is
// taken, or if admit, called under the index's lock, says so.
func (x *index) add(e *entry, admit func() bool) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if _, taken := x.mu.entries[e.key]; taken || !admit() {
		return false
	}
	x.mu.entries[e.key] = e
	x.mu.policy.insert(e)
	return true
}

// take removes the entry under key; its cost stays reserved.
func (x *index) take(key string) (*entry, bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.drop(x.mu.entries[key])
}

// takeNamed is take, but only for the file of that name.
func (x *index) takeNamed(key, name string) (*entry, bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if e := x.mu.entries[key]; e != nil && e.name == name {
		return x.drop(e)
	}
	return nil, false
}

// drop is called with the lock held.
func (x *index) drop(e *entry) (*entry, bool) {
	if e == nil {
		return nil, false
	}
	delete(x.mu.entries, e.key)
	x.mu.policy.remove(e)
	return e, true
}

// victim takes the next entry to evict; nil if nothing is over the limit, or
// nothing is left but files being written.
func (x *index) victim() *entry {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.mu.reserved <= x.mu.limits.Bytes {
		return nil
	}
	return x.evictOne()
}

// evictOne is called with the lock held.
func (x *index) evictOne() *entry {
	e := x.mu.policy.evict()
	if e == nil {
		return nil
	}
	delete(x.mu.entries, e.key)
	x.mu.evictions++
	return e
}

// tryReserve reserves n bytes if they fit. If not, it takes the entry that is
// to make way; nil if n can't fit, whatever makes way.
func (x *index) tryReserve(n int64) (ok bool, victim *entry) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if n > x.mu.limits.Bytes-baseCost {
		return false, nil
	}
	if x.mu.reserved+n <= x.mu.limits.Bytes {
		x.mu.reserved += n
		return true, nil
	}
	return false, x.evictOne()
}

// spare takes an entry to evict although the limit does not ask for it.
func (x *index) spare() *entry {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.evictOne()
}

// charge reserves n bytes that are on disk already.
func (x *index) charge(n int64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.mu.reserved += n
}

// release gives n reserved bytes back.
func (x *index) release(n int64) { x.charge(-n) }

func (x *index) setLimits(limits Limits) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.mu.limits = limits
	x.mu.policy.setLimit(limits.Bytes)
}

func (x *index) minFree() int64 {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.mu.limits.MinFree
}

func (x *index) counters() Counters {
	x.mu.Lock()
	defer x.mu.Unlock()
	return Counters{
		Bytes:     x.mu.reserved,
		Entries:   int64(len(x.mu.entries)),
		Limit:     x.mu.limits.Bytes,
		Evictions: x.mu.evictions,
	}
}
