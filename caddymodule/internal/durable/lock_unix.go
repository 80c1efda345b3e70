//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package durable

import (
	"errors"
	"os"
	"syscall"
)

var errNotDir error = syscall.ENOTDIR

// claim locks file until it is closed, at the latest by the end of the process.
// It tells whether file still has a name.
func claim(file *os.File) (kept bool, err error) {
	if err := flock(file, syscall.LOCK_EX); err != nil && !unsupported(err) {
		return false, err
	}
	info, err := file.Stat()
	if err != nil {
		return false, err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	return !ok || stat.Nlink > 0, nil
}

// ownerless tells whether nobody has claimed file, and if so keeps it from
// being claimed until it is closed.
func ownerless(file *os.File) (bool, error) {
	switch err := flock(file, syscall.LOCK_EX|syscall.LOCK_NB); {
	case err == nil:
		return true, nil
	case errors.Is(err, syscall.EWOULDBLOCK):
		return false, nil
	case unsupported(err):
		return olderThanADay(file)
	default:
		return false, err
	}
}

// Lock waits until no other open file of the same inode is locked, in this process
// or another, and locks file until it is closed. Where the file system has no
// locks it does nothing.
func Lock(file *os.File) error {
	if err := flock(file, syscall.LOCK_EX); err != nil && !unsupported(err) {
		return err
	}
	return nil
}

// unsupported tells whether a file system doesn't offer locks.
func unsupported(err error) bool {
	return errors.Is(err, errors.ErrUnsupported) || errors.Is(err, syscall.ENOLCK)
}

func flock(file *os.File, how int) error {
	for {
		err := syscall.Flock(int(file.Fd()), how)
		if !errors.Is(err, syscall.EINTR) {
			return os.NewSyscallError("flock", err)
		}
	}
}
