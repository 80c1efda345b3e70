// Package durable writes files that survive a crash whole or not at all.
//
// The guarantee, on a file system that honours fsync(2) and a disk that honours
// its flushes: until Commit or CommitNew the final name shows what it showed
// before. Once one of them has returned nil, it shows all the bytes written,
// after a power failure too. A crash in between leaves either state, never a
// part of the new one. After an error from Commit or CommitNew either state is
// possible too, except that an error that is [fs.ErrExist] has changed nothing.
//
// A temporary file lies in a staging directory of the same file system and is
// locked as long as its process lives. A crash can leave it behind, but not
// under a final name; Sweep removes it later.
//
// The package knows nothing of contents and doesn't limit space.
package durable

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
)

// File is a file in the making. Exactly one of Commit, CommitNew and Abort
// takes effect. Not for concurrent use.
type File struct {
	root  *os.Root
	file  *os.File
	temp  string // name in root
	err   error  // of the first Write that failed
	ended bool
}

var errEnded = errors.New("already committed or aborted")

// Create begins a file in the staging directory of root, which is made if need
// be. The root must stay open until the File has ended.
func Create(root *os.Root, staging string) (*File, error) {
	if err := MkdirAll(root, staging); err != nil {
		return nil, err
	}
	for {
		f := &File{root: root, temp: path.Join(staging, rand.Text())}
		var err error
		f.file, err = root.OpenFile(f.temp, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o666)
		if err != nil {
			return nil, err
		}
		// Between creation and lock a Sweep elsewhere may have removed it.
		kept, err := claim(f.file)
		if err != nil {
			return nil, errors.Join(err, f.Abort())
		}
		if kept {
			return f, nil
		}
		f.file.Close()
	}
}

// Write appends p. After an error the file can only be aborted.
func (f *File) Write(p []byte) (int, error) {
	n, err := f.file.Write(p)
	if err != nil && f.err == nil {
		f.err = err
	}
	return n, err
}

// Commit gives the file its final name in root, in place of what has that name.
// Missing directories are made.
func (f *File) Commit(name string) error {
	return f.publish(name, func() error { return f.root.Rename(f.temp, name) })
}

// CommitNew gives the file its final name in root unless it is taken: then the
// error is [fs.ErrExist]. That holds against other processes too. Missing
// directories are made. The file system must have hard links.
func (f *File) CommitNew(name string) error {
	return f.publish(name, func() error { return f.root.Link(f.temp, name) })
}

func (f *File) publish(name string, move func() error) error {
	if f.ended {
		return fmt.Errorf("commit %s: %w", name, errEnded)
	}
	defer f.Abort()
	if f.err != nil {
		return f.err
	}
	if err := f.file.Sync(); err != nil {
		return err
	}
	if err := MkdirAll(f.root, path.Dir(name)); err != nil {
		return err
	}
	if err := move(); err != nil {
		return err
	}
	return syncDir(f.root, path.Dir(name))
}

// Abort removes what is left of the temporary file. It does nothing after
// Commit, CommitNew or another Abort, so it can be deferred.
func (f *File) Abort() error {
	if f.ended {
		return nil
	}
	f.ended = true
	err := f.root.Remove(f.temp)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil // Commit has renamed it.
	}
	return errors.Join(err, f.file.Close())
}

// Remove removes the file name from root for good: it does not come back after
// a crash.
func Remove(root *os.Root, name string) error {
	if err := root.Remove(name); err != nil {
		return err
	}
	return syncDir(root, path.Dir(name))
}

// MkdirAll makes the directory dir of root and its parents, and makes them
// last. A directory that is there already costs one look.
func MkdirAll(root *os.Root, dir string) error {
	switch info, err := root.Stat(dir); {
	case err == nil && info.IsDir():
		return nil
	case err == nil:
		return &fs.PathError{Op: "mkdir", Path: dir, Err: errNotDir}
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	parent := path.Dir(dir)
	if err := MkdirAll(root, parent); err != nil {
		return err
	}
	if err := root.Mkdir(dir, 0o777); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncDir(root, parent)
}

// MakeRoot opens the directory at path, and makes it and its parents, and makes
// them last, if need be.
func MakeRoot(path string) (*os.Root, error) {
	if err := makeAll(filepath.Clean(path)); err != nil {
		return nil, err
	}
	return os.OpenRoot(path)
}

func makeAll(dir string) error {
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	parent := filepath.Dir(dir)
	if err := makeAll(parent); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o777); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return sync(os.Open(parent))
}

func syncDir(root *os.Root, dir string) error { return sync(root.Open(dir)) }

// sync flushes and closes a directory that has been opened.
func sync(dir *os.File, err error) error {
	if err != nil {
		return err
	}
	defer dir.Close()
	if runtime.GOOS == "windows" {
		return nil // It has no such call; NTFS journals its directories.
	}
	return dir.Sync()
}
