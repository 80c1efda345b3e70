// Package dir is an origin in a local directory, in the layout that
// `nix copy --to file://DIR` writes: an object's path is its file's path in DIR.
// Nix can use the directory as it is, and one that Nix has made can be served.
// What is special to Nix, such as nix-cache-info, is not this package's matter.
//
// Objects are files of their own: a read is an open file, and a write that has
// been committed survives a crash (see package durable). Files in the making
// lie in the hidden folder ".staging" of DIR, where neither Nix nor List looks.
package dir

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"

	"github.com/stevedores-org/nix-cache/caddymodule/internal/durable"
	"github.com/stevedores-org/nix-cache/caddymodule/origin"
)

// Dir is a directory as an [origin.Origin].
//
// Commits with IfAbsent hold against other processes too, and need a file
// system with hard links. So do commits with IfMatch against such commits and
// deletes through another Dir, where the file system has locks (flock): the file
// that is to be replaced is locked from the comparison to the change.
//
// A body that is a bare file doesn't end with its context: a local read needs
// no time limit.
type Dir struct {
	path  string
	mount mount
	paths locks
	swept atomic.Bool
}

var _ origin.Origin = (*Dir)(nil)

// New returns the origin in the directory at path. It touches nothing: the
// directory is opened at each use and made by the first Create. As long as
// there never was a directory, it is an empty cache.
func New(path string) *Dir {
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	d := &Dir{path: path}
	d.paths.mu.held = make(map[string]chan struct{})
	return d
}

// String returns "dir:" and the absolute path of the directory.
func (d *Dir) String() string { return "dir:" + d.path }

// Open implements [origin.Reader].
func (d *Dir) Open(ctx context.Context, path string, opts origin.OpenOptions) (origin.Info, io.ReadCloser, error) {
	file, info, err := d.open(ctx, path)
	if err != nil {
		return origin.Info{}, nil, d.problem("open", path, err)
	}
	body, err := section(ctx, file, info, opts)
	if err != nil {
		file.Close()
		return origin.Info{}, nil, d.problem("open", path, err)
	}
	return info, body, nil
}

func (d *Dir) open(ctx context.Context, path string) (*os.File, origin.Info, error) {
	root, err := d.begin(ctx, path)
	if err != nil {
		return nil, origin.Info{}, err
	}
	defer root.Close()
	file, err := root.Open(path)
	if err != nil {
		return nil, origin.Info{}, err
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fs.ErrNotExist
	}
	if err != nil {
		file.Close()
		return nil, origin.Info{}, err
	}
	return file, describe(info), nil
}

// Stat implements [origin.Reader].
func (d *Dir) Stat(ctx context.Context, path string) (origin.Info, error) {
	root, err := d.begin(ctx, path)
	if err != nil {
		return origin.Info{}, d.problem("stat", path, err)
	}
	defer root.Close()
	info, err := stat(root, path)
	if err != nil {
		return origin.Info{}, d.problem("stat", path, err)
	}
	return info, nil
}

// Delete implements [origin.Writer]. Directories stay, empty ones too.
func (d *Dir) Delete(ctx context.Context, path string) error {
	return d.problem("delete", path, d.delete(ctx, path))
}

func (d *Dir) delete(ctx context.Context, path string) error {
	root, err := d.begin(ctx, path)
	if err != nil {
		return err
	}
	defer root.Close()
	unlock, err := d.paths.lock(ctx, path)
	if err != nil {
		return err
	}
	defer unlock()
	file, _, err := hold(root, path)
	if err != nil {
		return err
	}
	defer file.Close()
	return durable.Remove(root, path)
}

// hold opens the object at path and keeps it from being replaced or deleted by
// others who hold it, until the file is closed. By then it may be another that is
// at the path.
func hold(root *os.Root, path string) (*os.File, origin.Info, error) {
	if _, err := stat(root, path); err != nil {
		return nil, origin.Info{}, err
	}
	file, err := root.Open(path)
	if err != nil {
		return nil, origin.Info{}, err
	}
	err = durable.Lock(file)
	info, statErr := file.Stat()
	if err = errors.Join(err, statErr); err != nil {
		file.Close()
		return nil, origin.Info{}, err
	}
	return file, describe(info), nil
}

// begin opens the directory for an operation on path.
func (d *Dir) begin(ctx context.Context, path string) (*os.Root, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if !objectPath(path) {
		return nil, fs.ErrNotExist
	}
	return d.mount.open(d.path)
}

// stat describes the object at path in root.
func stat(root *os.Root, path string) (origin.Info, error) {
	info, err := root.Stat(path)
	if err != nil {
		return origin.Info{}, err
	}
	if !info.Mode().IsRegular() {
		return origin.Info{}, fs.ErrNotExist
	}
	return describe(info), nil
}
