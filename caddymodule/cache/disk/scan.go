package disk

import (
	"cmp"
	"errors"
	"io/fs"
	"os"
	"slices"
	"sync"
	"time"
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
		case <-t.loading(i):
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

// shard is one directory of files.
type shard struct {
	once   sync.Once     // begins to read its names
	loaded chan struct{} // closed when they are in the index

	mu struct {
		sync.Mutex
		removed []string // keys to remove when it is loaded
	}
}

// load waits until the names of one shard are in the index. A look-up that comes
// before the scan has them read itself, so that nothing stored is ever reported
// absent and a miss after a restart costs one directory listing. ErrStalled if
// that takes too long, fs.ErrClosed if the tier is closed meanwhile.
func (t *Tier) load(shard int) error {
	select {
	case <-t.shards[shard].loaded:
		return nil
	default:
		return t.awaitShard(shard)
	}
}

func (t *Tier) awaitShard(shard int) error {
	if t.isClosed() {
		return fs.ErrClosed
	}
	loaded := t.loading(shard)
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-loaded:
		return nil
	case <-t.disk.Began():
	case <-timer.C:
	case <-t.stop:
		return fs.ErrClosed
	}
	return ErrStalled
}

func (t *Tier) isClosed() bool {
	select {
	case <-t.stop:
		return true
	default:
		return false
	}
}

// loading begins to read the names of one shard, once, and returns a channel that
// is closed when they are in the index.
func (t *Tier) loading(shard int) <-chan struct{} {
	s := &t.shards[shard]
	s.once.Do(func() { t.loads.Go(func() { t.readShard(shard) }) })
	return s.loaded
}

// endLoads waits for the shards that are being loaded. No more are.
func (t *Tier) endLoads() {
	for i := range t.shards {
		t.shards[i].once.Do(func() {})
	}
	t.loads.Wait()
}

// removeLater has a key removed when the shard is loaded; false if it is.
func (s *shard) removeLater(key string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.loaded:
		return false
	default:
		s.mu.removed = append(s.mu.removed, key)
		return true
	}
}

// isLoaded says that the shard's names are in the index, and takes those out again
// that were removed meanwhile.
func (s *shard) isLoaded(x *index) (removed []*entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, key := range s.mu.removed {
		if e, ok := x.take(key); ok {
			removed = append(removed, e)
		}
	}
	s.mu.removed = nil
	close(s.loaded)
	return removed
}

// readShard reads the names in a shard, from a disk that stalls when it answers
// again.
func (t *Tier) readShard(shard int) {
	read := make(chan []string, 1)
	t.long <- struct{}{}
	t.disk.Finish(longPatience, func() error {
		read <- t.list(shard)
		return nil
	})
	<-t.long
	select {
	case names := <-read:
		t.enter(shard, names)
	case <-t.stop:
		return
	}
	for _, e := range t.shards[shard].isLoaded(&t.index) {
		t.unlink(e)
	}
}

// list returns the names in a shard.
func (t *Tier) list(shard int) []string {
	d, err := os.Open(t.shard(shard))
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			t.log.Error("disk tier directory not read: what is in it is not used", "error", err)
		}
		return nil
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		t.log.Error("disk tier directory not read to its end: what is missing is not used", "error", err)
	}
	t.measure(shard)
	return names
}

// enter brings the names in a shard into the index.
func (t *Tier) enter(shard int, names []string) {
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
