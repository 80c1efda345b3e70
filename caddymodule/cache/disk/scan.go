package disk

import (
	"errors"
	"io/fs"
	"os"
)

// scan loads every shard, then evicts what a smaller limit no longer allows.
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
	t.evictExcess()
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
	for _, name := range names {
		if key, taken := t.adopt(name, shard); taken {
			twice = append(twice, key)
		}
	}
	for _, key := range twice {
		if e, ok := t.index.take(key); ok {
			t.unlink(e)
		}
	}
}

// adopt brings one file into the index. Of two files under one key nobody can
// tell which is right: the second is deleted and its key returned, for the first
// to go when all names are read.
func (t *Tier) adopt(name string, shard int) (key string, taken bool) {
	key, meta, serial, ok := parseName(name)
	if !ok || shardOf(key) != shard {
		t.log.Warn("disk tier: a file that is not ours is left alone", "shard", shardName(shard), "file", name)
		return "", false
	}
	t.raiseSerial(serial)
	e := newEntry(name, key, meta.Size)
	t.index.charge(e.cost())
	if t.index.add(e, func() bool { return true }) {
		return "", false
	}
	t.unlink(e)
	return key, true
}

// raiseSerial keeps the serials of new files above those in use.
func (t *Tier) raiseSerial(serial uint64) {
	for last := t.serial.Load(); serial > last; last = t.serial.Load() {
		if t.serial.CompareAndSwap(last, serial) {
			return
		}
	}
}
