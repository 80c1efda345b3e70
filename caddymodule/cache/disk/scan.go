package disk

import (
	"cmp"
	"errors"
	"io/fs"
	"os"
	"slices"
	"sync"
)

// found collects what a scan finds, to be put in the order in which it came.
type found struct {
	mu struct {
		sync.Mutex
		entries []numbered
	}
}

type numbered struct {
	*entry
	serial uint64
}

func (f *found) add(entries []numbered) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mu.entries = append(f.mu.entries, entries...)
}

func (f *found) take() []numbered {
	f.mu.Lock()
	defer f.mu.Unlock()
	entries := f.mu.entries
	f.mu.entries = nil
	return entries
}

// scan loads every shard, makes what is there known to the eviction policy in
// the order in which it came, as if there had been no restart, then evicts what a
// smaller limit no longer allows.
func (t *Tier) scan() {
	defer close(t.scanned)
	for i := range shardCount {
		select {
		case <-t.stop:
			return
		default:
			t.load(i)
		}
	}
	t.rank(t.found.take())
	t.evictExcess()
}

// rank makes entries known to the eviction policy, the oldest first. Readers get
// the index's lock meanwhile.
func (t *Tier) rank(entries []numbered) {
	slices.SortFunc(entries, func(a, b numbered) int { return cmp.Compare(a.serial, b.serial) })
	for chunk := range slices.Chunk(entries, 1000) {
		t.index.rank(chunk)
	}
}

// load brings the names of one shard into the index. A look-up that comes
// before the scan loads its shard itself, so that nothing stored is ever
// reported absent and a miss after a restart costs one directory listing.
func (t *Tier) load(shard int) {
	t.shards[shard].Do(func() { t.readShard(shard) })
}

func (t *Tier) readShard(shard int) {
	d, err := os.Open(t.shard(shard))
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			t.log.Error("disk tier directory not read: what is in it is not used", "error", err)
		}
		return
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		t.log.Error("disk tier directory not read to its end: what is missing is not used", "error", err)
	}
	t.measure(shard)
	var twice []string
	entries := make([]numbered, 0, len(names))
	for _, name := range names {
		if nestedName.MatchString(name) {
			t.clearNested(name, shard)
			continue
		}
		e, serial, ok := t.parse(name, shard)
		switch {
		case !ok:
		case t.adopt(e):
			entries = append(entries, numbered{e, serial})
		default:
			twice = append(twice, e.key())
		}
	}
	t.found.add(entries)
	for _, key := range twice {
		if e, ok := t.index.take(key); ok {
			t.unlink(e)
		}
	}
}

// parse returns the entry of one file, if it is the tier's own.
func (t *Tier) parse(name string, shard int) (e *entry, serial uint64, ok bool) {
	key, meta, serial, ok := parseName(name)
	if !ok || shardOf(key) != shard {
		t.log.Warn("disk tier: a file that is not ours is left alone", "shard", shardName(shard), "file", name)
		return nil, 0, false
	}
	t.raiseSerial(serial)
	return newEntry(name, key, meta.Size), serial, true
}

// adopt brings one file into the index. Of two files under one key nobody can
// tell which is right: the second is deleted, and the first has to go when all
// names are read.
func (t *Tier) adopt(e *entry) bool {
	if t.index.adopt(e) {
		return true
	}
	t.unlink(e)
	return false
}

// raiseSerial keeps the serials of new files above those in use.
func (t *Tier) raiseSerial(serial uint64) {
	for last := t.serial.Load(); serial > last; last = t.serial.Load() {
		if t.serial.CompareAndSwap(last, serial) {
			return
		}
	}
}
