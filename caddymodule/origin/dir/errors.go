package dir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"github.com/stevedores-org/nix-cache/caddymodule/origin"
)

// problem is the contract's error for one of op on path: absence, a condition
// that didn't hold, or else a directory that can't be used just now.
func (d *Dir) problem(op, path string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrNotExist):
		return origin.NotExist(op, path)
	case errors.Is(err, fs.ErrExist):
		return &fs.PathError{Op: op, Path: path, Err: fs.ErrExist}
	case errors.Is(err, origin.ErrChanged), isRefused(err):
		return fmt.Errorf("%s %s: %w", op, path, err)
	case errors.Is(err, syscall.ENAMETOOLONG):
		return d.tooLong(op, path)
	case errors.Is(err, fs.ErrPermission):
		err = fmt.Errorf("%w; let user %d, who runs this program, read and write %s", cause(err), os.Geteuid(), d.path)
	}
	return &origin.UnavailableError{
		Op:      op,
		Path:    path,
		Timeout: errors.Is(err, context.DeadlineExceeded),
		Err:     cause(err),
	}
}

// tooLong is the error for a name that the file system can't hold: nothing can
// be there, and nothing can be put there.
func (d *Dir) tooLong(op, path string) error {
	if op == "open" || op == "stat" || op == "delete" {
		return origin.NotExist(op, path)
	}
	return fmt.Errorf("%s %s: %w", op, path, syscall.ENAMETOOLONG)
}

// cause strips the outermost operation and file name from err, where the caller
// gives its own.
func cause(err error) error {
	if e, ok := err.(*fs.PathError); ok {
		return e.Err
	}
	return err
}

// refused is an error of the caller's own making: the directory is sound, and
// nothing has changed.
type refused string

func (r refused) Error() string { return string(r) }

func isRefused(err error) bool {
	_, ok := errors.AsType[refused](err)
	return ok
}

const errEnded = refused("already committed or aborted")
