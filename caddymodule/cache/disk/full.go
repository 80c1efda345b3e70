package disk

import (
	"os"
	"path/filepath"
)

// maxTries is how often something is tried on a full file system.
const maxTries = 5

// evictingFiles does something that makes a file or the entry of one. Where the
// file system is full all the same, inodes or a quota have run out: then files are
// evicted, and it is tried again, with twice as many each time.
func (t *Tier) evictingFiles(of need, do func() error) error {
	return evicting(do, func(try int) (evicted bool) {
		for range 1 << try {
			if victim := t.index.spareFile(of); victim != nil {
				evicted = t.unlink(victim) == nil || evicted
				os.Remove(filepath.Dir(t.path(victim.name))) // if it is empty: an inode, too
			}
		}
		return evicted
	})
}

// evictingBytes is the same for something that takes up n bytes.
func (t *Tier) evictingBytes(n int64, of need, do func() error) error {
	return evicting(do, func(try int) (evicted bool) {
		for short := costOf(n) << try; short > 0; {
			victim := t.index.spare(0, of)
			if victim == nil {
				break
			}
			short -= victim.cost()
			evicted = t.unlink(victim) == nil || evicted
		}
		return evicted
	})
}

func evicting(do func() error, evict func(try int) bool) error {
	for try := 0; ; try++ {
		err := do()
		if !isFull(err) || try+1 == maxTries || !evict(try) {
			return err
		}
	}
}
