package disk

import (
	"errors"
	"io"
	"io/fs"
	"iter"
	"math/rand/v2"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Keys yields the keys of the files that are there, shard by shard, beginning
// anywhere. It reads them from the disk, since there may be millions of them.
func (t *Tier) Keys() iter.Seq[string] {
	return func(yield func(string) bool) {
		first := rand.IntN(shardCount)
		for i := range shardCount {
			for _, name := range t.names((first + i) % shardCount) {
				if key, _, _, ok := parseName(name); ok && !yield(key) {
					return
				}
			}
		}
	}
}

// names returns those in a shard; none where it can't be read.
func (t *Tier) names(shard int) []string {
	var names []string
	err := t.do(func() error {
		d, err := os.Open(t.shard(shard))
		if err != nil {
			return err
		}
		defer d.Close()
		names, err = d.Readdirnames(-1)
		return err
	})
	if err != nil {
		return nil
	}
	return names
}

// Inspection is a file of the tier that is read past the kernel's memory, where
// the file system can do that: from the disk, and without pushing out what
// others read.
type Inspection struct {
	*Handle
	buf []byte
}

// Inspect opens the file stored under key, and the eviction policy takes no note
// of it.
func (t *Tier) Inspect(key string) (*Inspection, Meta, error) {
	e, ok := t.index.pin(key)
	if !ok {
		return nil, Meta{}, fs.ErrNotExist
	}
	path := t.path(e.name)
	f, err := t.openFile(func() (*os.File, error) { return openDirect(path) }, func(f *os.File) { f.Close() })
	if err != nil {
		t.closed(e)
		return nil, Meta{}, err
	}
	return &Inspection{&Handle{File: f, tier: t, entry: e}, aligned(inspected)}, e.meta(), nil
}

// inspected is how much is read at a time.
const inspected = 1 << 20

func openDirect(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECT, 0)
	if errors.Is(err, unix.EINVAL) {
		return os.Open(path)
	}
	return f, err
}

// aligned returns a buffer that begins at a block, as O_DIRECT asks for.
func aligned(size int) []byte {
	buf := make([]byte, size+blockSize)
	skip := -uintptr(unsafe.Pointer(unsafe.SliceData(buf))) % blockSize
	return buf[skip : skip+uintptr(size)]
}

// Next reads on, and returns what it has read until the next call; nothing at the
// end.
func (i *Inspection) Next() ([]byte, error) {
	n := 0
	err := i.tier.do(func() (err error) {
		n, err = i.File.Read(i.buf)
		return err
	})
	if err != nil && err != io.EOF {
		return nil, err
	}
	return i.buf[:n], nil
}
