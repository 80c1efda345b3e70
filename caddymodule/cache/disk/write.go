package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// File is a file being written to the tier. Exactly one of Commit and Abort
// takes effect; Abort after Commit does nothing. ReadAt and WriteAt may be
// called concurrently, and until Close also after either.
type File struct {
	*os.File
	tier *Tier
	need need
	key  string
	size int64

	offered int64 // bytes that were reserved for it as an offered file

	mu struct {
		sync.Mutex
		ended   bool   // by Commit or Abort
		entry   *entry // that Commit made of it
		deleted bool   // by Abort
		closed  bool
	}
}

// Create makes room for a file of exactly size bytes that somebody waits for, and
// opens it for writing, its space allocated. Key and tag have neither comma nor
// slash. ErrNoRoom if it can't be taken in, fs.ErrClosed if the tier is closed
// meanwhile.
//
// Before the names in the directory are read, nobody knows how much room there
// is. It waits for that for a moment, which a large directory may exceed.
func (t *Tier) Create(key string, size int64) (*File, error) { return t.create(key, size, asked) }

// Offer is Create for a file that nobody has asked for yet: it takes the place of
// no file that was asked for more than once.
func (t *Tier) Offer(key string, size int64) (*File, error) { return t.create(key, size, offered) }

func (t *Tier) create(key string, size int64, of need) (*File, error) {
	if err := t.awaitScan(); err != nil {
		return nil, err
	}
	if size < 0 || size > maxSize {
		return nil, fmt.Errorf("%w: no file has %d bytes", ErrNoRoom, size)
	}
	if limit := t.index.limit(); baseCost+costOf(size)+headroom > limit {
		return nil, &TooSmallError{Limit: limit, Size: size}
	}
	f := &File{tier: t, need: of, key: key, size: size}
	if err := f.reserve(costOf(size) + headroom); err != nil {
		return nil, err
	}
	var err error
	if f.File, err = t.allocate(size, of); err != nil {
		f.end(nil)
		t.index.release(costOf(size) + headroom)
		return nil, fmt.Errorf("create disk tier entry: %w", err)
	}
	t.measure(shardCount)
	return f, nil
}

// reserve makes room for n bytes more of the file.
func (f *File) reserve(n int64) error {
	err := f.tier.reserve(n, f.need)
	if err == nil && f.need == offered {
		f.offered += n
	}
	return err
}

// Reserve makes room for n bytes on the tier's file system that lie in no file of
// the tier's, but count as if they did. They are given back by release. Nobody
// has asked for them, see Offer. ErrNoRoom if there is none.
func (t *Tier) Reserve(n int64) (release func(), err error) {
	if err := t.awaitScan(); err != nil {
		return nil, err
	}
	if err := t.reserve(n, spooled); err != nil {
		return nil, err
	}
	return func() { t.index.release(n) }, nil
}

// scanPatience is short, since clients wait meanwhile.
const scanPatience = 500 * time.Millisecond

func (t *Tier) awaitScan() error {
	patience := time.NewTimer(scanPatience)
	defer patience.Stop()
	select {
	case <-t.scanned:
	case <-patience.C:
		return fmt.Errorf("%w: it is still being read after the start", ErrNoRoom)
	}
	if t.isClosed() {
		return fmt.Errorf("create disk tier entry: %w", fs.ErrClosed)
	}
	return nil
}

func (t *Tier) reserve(n int64, of need) error {
	for {
		ok, victim, left := t.index.tryReserve(n, of)
		switch {
		case ok:
			if err := t.keepFree(n, of); err != nil {
				if of == offered {
					t.index.taken(n)
				}
				t.index.release(n)
				return err
			}
			return nil
		case victim != nil:
			if err := t.unlink(victim); err != nil {
				return err
			}
		case left != nil:
			select {
			case <-left:
			case <-t.disk.Began():
				return ErrStalled
			}
		default:
			return fmt.Errorf("%w: %d bytes don't fit the limit beside what may not go for them", ErrNoRoom, n)
		}
	}
}

// keepFree keeps the operator's minimum free: what the file system is short of,
// eviction makes up for as far as it can. If it can't, nothing is evicted.
func (t *Tier) keepFree(n int64, of need) error {
	short, err := t.shortOf(n)
	for err == nil && short > 0 {
		victim := t.index.spare(short, of)
		if victim == nil {
			return fmt.Errorf("%w: the file system lacks %d bytes of the free space to keep", ErrNoRoom, short)
		}
		short -= victim.cost()
		err = t.unlink(victim)
	}
	return err
}

// shortOf returns by how much the file system's free space is too small for n
// more bytes.
func (t *Tier) shortOf(n int64) (int64, error) {
	st, err := t.statfs()
	if err != nil {
		return 0, err
	}
	return t.index.minFree() + n - int64(st.Bavail)*int64(st.Bsize), nil
}

func (t *Tier) allocate(size int64, of need) (f *os.File, err error) {
	err = t.evictingFiles(of, func() error {
		f, err = t.openFile(func() (*os.File, error) { return createIn(t.staging()) }, discard)
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := t.preallocate(f, size, of); err != nil {
		t.disk.Finish(patience, func() error { discard(f); return nil })
		return nil, err
	}
	return f, nil
}

func createIn(dir string) (*os.File, error) {
	f, err := os.CreateTemp(dir, "*")
	if !errors.Is(err, fs.ErrNotExist) {
		return f, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil { // somebody deleted it: begin anew
		return nil, err
	}
	return os.CreateTemp(dir, "*")
}

// preallocate finds out now, not in the middle, that the disk is full.
func (t *Tier) preallocate(f *os.File, size int64, of need) error {
	return t.evictingBytes(size, of, func() error {
		return t.do(func() error { return preallocate(f, size) })
	})
}

func preallocate(f *os.File, size int64) error {
	if size == 0 {
		return nil
	}
	err := unix.Fallocate(int(f.Fd()), 0, 0, size)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		return f.Truncate(size)
	}
	if err != nil {
		return &fs.PathError{Op: "fallocate", Path: f.Name(), Err: err}
	}
	return nil
}

// Size returns the size that the file is to have.
func (f *File) Size() int64 { return f.size }

// Resize changes the size that the file is to have: it makes room first, or gives
// it back. Not to be called concurrently with anything else; after an error only
// Abort makes sense.
func (f *File) Resize(size int64) error {
	switch {
	case size > f.size:
		return f.grow(size)
	case size < f.size:
		return f.shrink(size)
	}
	return nil
}

func (f *File) grow(size int64) error {
	if size > maxSize {
		return fmt.Errorf("%w: no file has %d bytes", ErrNoRoom, size)
	}
	more := costOf(size) - costOf(f.size)
	if err := f.reserve(more); err != nil {
		return err
	}
	f.size = size // also after an error: some of it may be taken up
	if err := f.tier.preallocate(f.File, size, f.need); err != nil {
		return fmt.Errorf("grow disk tier entry: %w", err)
	}
	return nil
}

func (f *File) shrink(size int64) error {
	if err := f.tier.do(func() error { return f.Truncate(size) }); err != nil {
		return fmt.Errorf("shrink disk tier entry: %w", err)
	}
	f.tier.index.release(costOf(f.size) - costOf(size))
	f.size = size
	return nil
}

// WriteAt implements [io.WriterAt]. After ErrStalled it may still be reading b.
func (f *File) WriteAt(b []byte, off int64) (int, error) {
	err := f.tier.evictingBytes(int64(len(b)), f.need, func() error {
		return f.tier.do(func() error {
			_, err := f.File.WriteAt(b, off)
			return err
		})
	})
	if err != nil {
		return 0, err
	}
	return len(b), nil
}

// Commit brings the file into the tier under its key with that tag. The bytes
// are on the disk by then, unless there is a tag for readers to check them by,
// which is for small files: a narinfo is not worth a wait for the disk. admit is
// asked at the very moment the file would become visible; if it says no, or
// another file has the key by then, the file is dropped, and that is no error.
func (f *File) Commit(tag string, admit func() bool) error {
	if f.hasEnded() {
		return nil
	}
	if err := f.publish(tag, admit); err != nil {
		f.Abort()
		return fmt.Errorf("commit disk tier entry: %w", err)
	}
	return nil
}

func (f *File) publish(tag string, admit func() bool) error {
	if tag == "" { // else readers compare the bytes with the tag
		if err := f.tier.sync(func() error { return unix.Fdatasync(int(f.Fd())) }); err != nil {
			return err
		}
	}
	modified, err := checkSize(f.File, f.size)
	if err != nil {
		return err
	}
	name := f.tier.fileName(f.key, Meta{Size: f.size, Tag: tag})
	err = f.tier.evictingFiles(f.need, func() error { return f.tier.moveIn(f.Name(), name) })
	if err != nil {
		return err
	}
	e := newEntry(name, f.key, f.size)
	e.good, e.open = modified, 1 // by us
	f.end(e)                     // from here on its space is the entry's
	f.tier.measure(shardOf(f.key))
	f.tier.index.release(headroom)
	if !f.tier.index.add(e, admit) {
		return f.tier.unlink(e)
	}
	return nil
}

func (t *Tier) moveIn(staged, name string) error {
	to := t.path(name)
	return t.disk.Do(patience, func() error { return rename(staged, to) }, func() { os.Remove(to) })
}

// rename makes the directory that it renames to, if need be.
func rename(staged, to string) error {
	err := os.Rename(staged, to)
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return err
	}
	return os.Rename(staged, to)
}

// Abort deletes what was written.
func (f *File) Abort() error {
	if !f.end(nil) {
		return nil
	}
	err := f.tier.disk.Finish(patience, func() error { return os.Remove(f.Name()) })
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, ErrStalled) {
		return fmt.Errorf("abort disk tier entry: %w", err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mu.deleted = true
	f.settle()
	return nil
}

// Close closes the file. What was aborted takes up its space up to then.
func (f *File) Close() error {
	err := f.tier.disk.Finish(patience, f.File.Close)
	f.mu.Lock()
	closed, e := f.mu.closed, f.mu.entry
	f.mu.closed = true
	if !closed {
		f.settle()
	}
	f.mu.Unlock()
	if !closed && e != nil {
		f.tier.closed(e)
	}
	return err
}

// settle gives the space back of what was aborted. It is called with the lock
// held.
func (f *File) settle() {
	if f.mu.deleted && f.mu.closed {
		f.tier.index.release(costOf(f.size) + headroom)
	}
}

func (f *File) hasEnded() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.mu.ended
}

// end says what the file has become, nil for nothing, unless it was said before.
func (f *File) end(e *entry) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.mu.ended {
		return false
	}
	f.mu.ended, f.mu.entry = true, e
	f.tier.index.taken(f.offered)
	return true
}
