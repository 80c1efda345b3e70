package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// File is a file being written to the tier. Exactly one of Commit and Abort
// takes effect; Abort after Commit does nothing. ReadAt and WriteAt may be
// called concurrently, and until Close also after either.
type File struct {
	*os.File
	tier  *Tier
	key   string
	size  int64
	ended bool
}

// Create makes room for a file of exactly size bytes and opens it for
// writing, its space allocated. ErrNoRoom if it can't be taken in.
func (t *Tier) Create(key string, size int64) (*File, error) {
	t.load(shardOf(key))
	if err := t.reserve(costOf(size)); err != nil {
		return nil, err
	}
	f, err := t.allocate(size)
	if err != nil {
		t.index.release(costOf(size))
		return nil, fmt.Errorf("create disk tier entry: %w", err)
	}
	return &File{File: f, tier: t, key: key, size: size}, nil
}

func (t *Tier) reserve(n int64) error {
	if err := t.checkFree(n); err != nil {
		return err
	}
	for {
		ok, victim := t.index.tryReserve(n)
		switch {
		case ok:
			return nil
		case victim == nil:
			return fmt.Errorf("%w: %d bytes are over the limit", ErrNoRoom, n)
		}
		if err := t.unlink(victim); err != nil {
			return err
		}
	}
}

// checkFree keeps the operator's minimum free; what the file system is short
// of, eviction makes up for as far as it can.
func (t *Tier) checkFree(n int64) error {
	for {
		var st unix.Statfs_t
		if err := unix.Statfs(t.dir, &st); err != nil {
			return fmt.Errorf("statfs %s: %w", t.dir, err)
		}
		short := t.index.minFree() + n - int64(st.Bavail)*int64(st.Bsize)
		if short <= 0 {
			return nil
		}
		victim := t.index.spare()
		if victim == nil {
			return fmt.Errorf("%w: the file system lacks %d bytes of the free space to keep", ErrNoRoom, short)
		}
		if err := t.unlink(victim); err != nil {
			return err
		}
	}
}

func (t *Tier) allocate(size int64) (*os.File, error) {
	f, err := os.CreateTemp(t.staging(), "*")
	if errors.Is(err, fs.ErrNotExist) { // somebody deleted the directory: begin anew
		if err = os.MkdirAll(t.staging(), 0o700); err == nil {
			f, err = os.CreateTemp(t.staging(), "*")
		}
	}
	if err != nil {
		return nil, err
	}
	if err := preallocate(f, size); err != nil {
		f.Close()
		os.Remove(f.Name())
		return nil, err
	}
	return f, nil
}

// preallocate finds out now, not in the middle, that the disk is full.
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

// Commit brings the bytes to the disk, then the file into the tier under its
// key with that tag. admit is asked at the very moment the file would become
// visible; if it says no, or another file has the key by then, the file is
// dropped, and that is no error.
func (f *File) Commit(tag string, admit func() bool) error {
	if f.ended {
		return nil
	}
	if err := f.publish(tag, admit); err != nil {
		f.Abort()
		return fmt.Errorf("commit disk tier entry: %w", err)
	}
	f.ended = true
	return nil
}

func (f *File) publish(tag string, admit func() bool) error {
	if err := unix.Fdatasync(int(f.Fd())); err != nil {
		return err
	}
	if err := checkSize(f.File, f.size); err != nil {
		return err
	}
	meta := Meta{Size: f.size, Tag: tag}
	name := f.tier.fileName(f.key, meta)
	if err := f.tier.moveIn(f.Name(), name); err != nil {
		return err
	}
	e := &entry{name: name, key: name[:len(f.key)], meta: meta}
	if !f.tier.index.add(e, admit) {
		return f.tier.unlink(e)
	}
	return nil
}

func (t *Tier) moveIn(staged, name string) error {
	to := t.path(name)
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
	if f.ended {
		return nil
	}
	f.ended = true
	err := os.Remove(f.Name())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("abort disk tier entry: %w", err)
	}
	f.tier.index.release(costOf(f.size))
	return nil
}
