package disk

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stevedores-org/nix-cache/caddymodule/internal/stall"
)

// ErrStalled says that the disk does not answer. Until it does, all operations
// that need it fail with this error at once.
var ErrStalled = stall.ErrStalled

const (
	// patience is how long an operation on the disk may take.
	patience = 3 * time.Second

	// longPatience is the same for what takes as long on a slow disk: bringing the
	// bytes of a large file to it, and reading a large directory.
	longPatience = time.Minute

	// maxLong is how many of these are under way at a time. Opening a file must not
	// wait for them: so they are a small part of the operations that a stall.Watch
	// lets be under way.
	maxLong = 16
)

// Stalled reports whether the disk does not answer.
func (t *Tier) Stalled() bool { return t.disk.Stalled() }

func (t *Tier) stalled(stalled bool) {
	if stalled {
		t.log.Error("the disk of the tier does not answer: serving without it until it does", "dir", t.dir)
		return
	}
	t.log.Info("the disk of the tier answers again", "dir", t.dir)
}

// do does something with the disk, unless that stalls.
func (t *Tier) do(do func() error) error { return t.disk.Do(patience, do, nil) }

// sync brings a file's bytes to the disk by do, when few others do that.
// ErrStalled if the disk stalls meanwhile.
func (t *Tier) sync(do func() error) error {
	select {
	case t.long <- struct{}{}:
		defer func() { <-t.long }()
	case <-t.disk.Began():
		return ErrStalled
	}
	return t.disk.Do(longPatience, do, nil)
}

// openFile opens a file in one of several ways. One that is opened too late is
// dealt with by undo.
func (t *Tier) openFile(open func() (*os.File, error), undo func(*os.File)) (*os.File, error) {
	var f *os.File
	err := t.disk.Do(patience, func() (err error) {
		f, err = open()
		return err
	}, func() { undo(f) })
	if err != nil {
		return nil, err
	}
	return f, nil
}

// Patient returns a reader of an open file of the tier that fails with ErrStalled
// where the disk does. After that it may still be writing to the buffer.
func (t *Tier) Patient(f *os.File) io.ReaderAt { return patient{t, f} }

type patient struct {
	tier *Tier
	file *os.File
}

func (p patient) ReadAt(b []byte, off int64) (int, error) {
	n := 0
	err := p.tier.do(func() (err error) {
		n, err = p.file.ReadAt(b, off)
		return err
	})
	if errors.Is(err, ErrStalled) {
		return 0, err // n may still change
	}
	return n, err
}

// discard closes a staged file and deletes it.
func discard(f *os.File) {
	f.Close()
	os.Remove(f.Name())
}

// unlink deletes a file whose entry has left the index, then gives its space
// back: the other way round, du could exceed the limit. A file that can't be
// deleted keeps its space reserved. ErrStalled if it will be deleted when the disk
// answers again.
func (t *Tier) unlink(e *entry) error {
	return t.disk.Finish(patience, func() error {
		err := os.Remove(t.path(e.name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.index.stuck(e)
			t.log.Error("disk tier file not removed", "error", err)
			return fmt.Errorf("remove disk tier entry: %w", err)
		}
		t.index.deleted(e)
		return nil
	})
}

// leave leaves the mark of an orderly stop and gives the directory up. While the
// disk stalls there is no mark: it could come there under another process.
func (t *Tier) leave() error {
	err := t.do(func() error { return errors.Join(t.trusted.leave(t.dir), t.lock.Close()) })
	if errors.Is(err, ErrStalled) {
		t.disk.Finish(patience, t.lock.Close)
		return fmt.Errorf("close disk tier: %w", err)
	}
	return err
}

// statfs describes the file system.
func (t *Tier) statfs() (unix.Statfs_t, error) {
	var st unix.Statfs_t
	err := t.do(func() error { return unix.Fstatfs(int(t.lock.Fd()), &st) })
	if err != nil {
		return unix.Statfs_t{}, fmt.Errorf("statfs %s: %w", t.dir, err)
	}
	return st, nil
}
