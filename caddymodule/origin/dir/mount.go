package dir

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync/atomic"
)

// mount remembers on which file system the directory was, so that one that has
// vanished is not mistaken for an empty cache: a missing object would be
// believed, and a write would go to the disk beneath the mount point.
type mount struct {
	seen atomic.Pointer[uint64] // the device number; nil: never seen
}

// open opens the directory at path. It is [fs.ErrNotExist] if it isn't there
// and never was.
func (m *mount) open(path string) (*os.Root, error) {
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, m.missing(path, err)
	}
	if err := m.check(root); err != nil {
		root.Close()
		return nil, err
	}
	return root, nil
}

func (m *mount) missing(path string, err error) error {
	if m.seen.Load() == nil || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return fmt.Errorf("directory %s has vanished; mount it again or create it", path)
}

// check refuses an empty directory on another file system than before, which
// is what an unmount leaves.
func (m *mount) check(root *os.Root) error {
	info, err := root.Stat(".")
	if err != nil {
		return err
	}
	now := device(info)
	seen := m.seen.Load()
	if seen != nil && *seen == now {
		return nil
	}
	if seen != nil && isEmpty(root) {
		return fmt.Errorf("directory %s is empty and on another file system than before; mount it again", root.Name())
	}
	m.seen.Store(&now)
	return nil
}

func isEmpty(root *os.Root) bool {
	d, err := root.Open(".")
	if err != nil {
		return false
	}
	defer d.Close()
	_, err = d.ReadDir(1)
	return err == io.EOF
}
