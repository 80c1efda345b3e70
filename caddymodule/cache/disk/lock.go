package disk

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// dirLock keeps a directory from other tiers until it is closed.
type dirLock struct {
	*os.File
	id inode
}

type inode struct{ device, number uint64 }

// held has the locks of this process, by inode, so that it doesn't take itself
// for another one.
var held sync.Map

// inUseHereError is an ErrInUse that this process itself is the reason of.
type inUseHereError struct{}

func (inUseHereError) Error() string { return "directory is in use by another cache of this process" }
func (inUseHereError) Unwrap() error { return ErrInUse }

func lockDir(dir string) (*dirLock, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	l, err := takeLock(f)
	if err != nil {
		f.Close()
		return nil, err
	}
	return l, nil
}

func takeLock(f *os.File) (*dirLock, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, fmt.Errorf("stat lock: %w", err)
	}
	l := &dirLock{f, inode{uint64(st.Dev), st.Ino}}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_, here := held.Load(l.id)
		switch {
		case !errors.Is(err, unix.EWOULDBLOCK):
			return nil, fmt.Errorf("lock: %w", err)
		case here:
			return nil, inUseHereError{}
		default:
			return nil, ErrInUse
		}
	}
	held.Store(l.id, nil)
	return l, nil
}

// Close gives the lock up.
func (l *dirLock) Close() error {
	held.Delete(l.id)
	return l.File.Close()
}
