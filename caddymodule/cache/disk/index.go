package disk

import "sync"

const (
	blockSize = 4096 // files take up whole blocks of the file system

	// mapped is how many of a file's blocks one block of the file system's
	// own map of them holds, however scattered they are: ext4 340, XFS 250.
	// The inode itself has room for inlined of them.
	mapped  = 250
	inlined = 4

	// headroom is what the directories can grow by when a file is staged and
	// when it is moved in: by three blocks each, as a tree splits from its
	// leaf up. They never shrink.
	headroom = 2 * 3 * blockSize

	// What the mark and the directories take up at first: dir, staging, objects
	// and shards.
	baseCost = (4 + shardCount) * blockSize
)

// offeredShare bounds what offered files take up while they are written, to one in
// offeredShare of the limit: uploads need room for their parts, too, without which
// they can't go on.
const offeredShare = 2

// maxSize is the largest file in bytes. There is none, but sums stay sums.
const maxSize = 1 << 50

// MinBytes is the least that Limits.Bytes can sensibly be.
const MinBytes = 4 * baseCost

// entry is one file under objects/. There may be millions of them, so what can
// be told from the name is. Fields are guarded by index.mu.
type entry struct {
	name string // of the file, which begins with its key
	size int64
	good int64 // modification time at which its bytes were known to be right; 0: never

	// The eviction policy's own.
	prev, next *entry
	in         queueID
	freq       uint8

	keyLen uint16
	since  uint32 // by the policy's clock, when it was put where it is

	open    int32 // how often it is open
	deleted bool  // while it was: its space is free when it is closed
}

func newEntry(name, key string, size int64) *entry {
	return &entry{name: name, keyLen: uint16(len(key)), size: size}
}

func (e *entry) key() string { return e.name[:e.keyLen] }

func (e *entry) cost() int64 { return costOf(e.size) }

// pinned is the part of its cost that eviction can't free.
func (e *entry) pinned() int64 {
	if e.open > 0 {
		return e.cost()
	}
	return 0
}

func (e *entry) meta() Meta {
	_, meta, _, _ := parseName(e.name)
	return meta
}

// costOf is the most that a file of that size takes up on disk. An empty one
// counts as a block, so that none is free.
func costOf(size int64) int64 {
	blocks := max((size+blockSize-1)/blockSize, 1)
	if blocks > inlined {
		blocks += (blocks + mapped - 1) / mapped
	}
	return blocks * blockSize
}

// index knows every file of the tier and the space it takes. An entry's cost
// stays reserved from before its file is written until after it is deleted, and
// closed by all who have it open: the file system doesn't free it before that. So
// entries that are open are not evicted.
type index struct {
	mu struct {
		sync.Mutex
		entries   map[string]*entry // by key
		policy    policy
		limits    Limits
		reserved  int64
		offered   int64                 // the part of it that is of offered files being written
		leaving   int64                 // the part of it whose files are being deleted
		left      chan struct{}         // closed and replaced when a file is
		dirs      [shardCount + 1]int64 // what the shards and staging took up at most
		evictions uint64
	}
}

func (x *index) init(limits Limits) {
	x.mu.entries = make(map[string]*entry)
	x.mu.limits = limits
	x.mu.policy.init()
	x.mu.policy.setLimit(limits.Bytes)
	x.mu.reserved = baseCost
	x.mu.left = make(chan struct{})
	for i := range x.mu.dirs {
		x.mu.dirs[i] = blockSize
	}
}

// use opens an entry for a reader, which the eviction policy takes note of. good
// is what the entry has.
func (x *index) use(key string) (e *entry, good int64, ok bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	e, ok = x.mu.entries[key]
	if !ok {
		return nil, 0, false
	}
	e.touch()
	x.mu.policy.pin(e)
	return e, e.good, true
}

// pin opens an entry without a trace.
func (x *index) pin(key string) (*entry, bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	e, ok := x.mu.entries[key]
	if ok {
		x.mu.policy.pin(e)
	}
	return e, ok
}

// closed undoes one use of an entry. over says that the limit asks for evictions
// which only now may be possible.
func (x *index) closed(e *entry) (over bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.mu.policy.unpin(e)
	if e.open == 0 && e.deleted {
		x.mu.reserved -= e.cost()
		x.announce()
	}
	return x.isOver()
}

// isDeleted reports whether the file of an entry has been deleted.
func (x *index) isDeleted(e *entry) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return e.deleted
}

// isOver is called with the lock held.
func (x *index) isOver() bool { return x.mu.reserved-x.mu.leaving > x.mu.limits.Bytes }

// announce tells those who wait for room that there is more. It is called with
// the lock held.
func (x *index) announce() {
	close(x.mu.left)
	x.mu.left = make(chan struct{})
}

// checked notes that the file of that name had the right bytes at this
// modification time.
func (x *index) checked(key, name string, modified int64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if e := x.mu.entries[key]; e != nil && e.name == name {
		e.good = modified
	}
}

// peek looks a key up without a trace.
func (x *index) peek(key string) (Meta, bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	e, ok := x.mu.entries[key]
	if !ok {
		return Meta{}, false
	}
	return e.meta(), true
}

// add enters a file whose cost is reserved. It is refused, and to be deleted,
// if the key is taken, or if admit, called under the index's lock, says so.
func (x *index) add(e *entry, admit func() bool) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if _, taken := x.mu.entries[e.key()]; taken || !admit() {
		x.mu.leaving += e.cost()
		return false
	}
	x.mu.entries[e.key()] = e
	x.mu.policy.insert(e)
	return true
}

// adopt enters a file that is on disk already, unless the key is taken. The
// eviction policy does not know it before rank.
func (x *index) adopt(e *entry) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.mu.reserved += e.cost()
	if _, taken := x.mu.entries[e.key()]; taken {
		x.mu.leaving += e.cost()
		return false
	}
	x.mu.entries[e.key()] = e
	return true
}

// rank makes those adopted entries that are still there known to the eviction
// policy, in that order.
func (x *index) rank(entries []numbered) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, e := range entries {
		if x.mu.entries[e.key()] == e.entry {
			x.mu.policy.insert(e.entry)
		}
	}
}

// take removes the entry under key; its cost stays reserved until its file is
// deleted.
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
	delete(x.mu.entries, e.key())
	x.mu.policy.remove(e)
	x.mu.leaving += e.cost()
	return e, true
}

// victim takes the next entry to evict; nil if nothing is over the limit, or
// nothing is left but files being written.
func (x *index) victim() *entry {
	x.mu.Lock()
	defer x.mu.Unlock()
	if !x.isOver() {
		return nil
	}
	return x.evicted(x.mu.policy.evict(asked))
}

// evicted takes out a victim of the policy's, if it has one. It is called with
// the lock held.
func (x *index) evicted(e *entry) *entry {
	if e == nil {
		return nil
	}
	delete(x.mu.entries, e.key())
	x.mu.leaving += e.cost()
	x.mu.evictions++
	return e
}

// tryReserve reserves n bytes for what is asked for or offered, if they fit. If not, it tells what has to come
// first: a victim, taken out, is to be deleted, or left, closed when somebody
// else has deleted one, to be waited for. Neither: n can't fit, whatever makes
// way, and so nothing does.
func (x *index) tryReserve(n int64, of need) (ok bool, victim *entry, left <-chan struct{}) {
	x.mu.Lock()
	defer x.mu.Unlock()
	short := x.mu.reserved + n - x.mu.limits.Bytes
	switch {
	case of == offered && x.mu.offered+n > x.mu.limits.Bytes/offeredShare:
		return false, nil, nil
	case short <= 0:
		x.mu.reserved += n
		if of == offered {
			x.mu.offered += n
		}
		return true, nil, nil
	case short > x.mu.policy.free(of)+x.mu.leaving:
		return false, nil, nil
	case short > x.mu.leaving:
		return false, x.evicted(x.mu.policy.evict(of)), nil
	default:
		return false, nil, x.mu.left
	}
}

// taken says that n bytes that were reserved for an offered file are not only that
// any more.
func (x *index) taken(n int64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.mu.offered -= n
}

// spare takes an entry to evict although the limit does not ask for it; nil if
// all that can be have less than n bytes.
func (x *index) spare(n int64, of need) *entry {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.mu.policy.free(of) < n {
		return nil
	}
	return x.evicted(x.mu.policy.evict(of))
}

// spareFile is spare where files are short, not bytes.
func (x *index) spareFile(of need) *entry {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.evicted(x.mu.policy.evictLight(of))
}

// release gives n reserved bytes back that no file takes up.
func (x *index) release(n int64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.mu.reserved -= n
	x.announce()
}

// deleted says that the file of an entry that was taken out is gone, and gives
// its space back, once, if nobody has it open.
func (x *index) deleted(e *entry) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if e.deleted {
		return
	}
	x.mu.leaving -= e.cost()
	if e.deleted = true; e.open == 0 {
		x.mu.reserved -= e.cost()
	}
	x.announce()
}

// stuck says that the file of an entry that was taken out can't be deleted.
func (x *index) stuck(e *entry) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.mu.leaving -= e.cost()
	x.announce()
}

// grown notes what a directory takes up: a shard, or staging.
func (x *index) grown(dir int, bytes int64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if more := bytes - x.mu.dirs[dir]; more > 0 {
		x.mu.dirs[dir] = bytes
		x.mu.reserved += more
	}
}

func (x *index) setLimits(limits Limits) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.mu.limits = limits
	x.mu.policy.setLimit(limits.Bytes)
}

func (x *index) limit() int64 {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.mu.limits.Bytes
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
