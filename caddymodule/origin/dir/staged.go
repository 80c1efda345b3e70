package dir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/stevedores-org/nix-cache/caddymodule/internal/durable"
	"github.com/stevedores-org/nix-cache/caddymodule/origin"
)

// staged is an object in the making.
type staged struct {
	d    *Dir
	ctx  context.Context
	root *os.Root
	path string
	opts origin.CreateOptions
	file *durable.File
	size int64
	done bool
}

// Create implements [origin.Writer]. The content type is not kept.
func (d *Dir) Create(ctx context.Context, path string, opts origin.CreateOptions) (origin.Staged, error) {
	s, err := d.create(ctx, path, opts)
	if err != nil {
		return nil, d.problem("create", path, err)
	}
	return s, nil
}

func (d *Dir) create(ctx context.Context, path string, opts origin.CreateOptions) (*staged, error) {
	if !objectPath(path) {
		return nil, refused("not the path of an object")
	}
	root, err := d.begin(ctx, path)
	if errors.Is(err, fs.ErrNotExist) {
		root, err = d.makeRoot()
	}
	if err != nil {
		return nil, err
	}
	if d.swept.CompareAndSwap(false, true) {
		// What can't be swept costs space only, and the next start tries again.
		_ = durable.Sweep(root, staging)
	}
	file, err := durable.Create(root, staging)
	if err != nil {
		root.Close()
		return nil, err
	}
	return &staged{d: d, ctx: ctx, root: root, path: path, opts: opts, file: file}, nil
}

func (d *Dir) makeRoot() (*os.Root, error) {
	root, err := durable.MakeRoot(d.path)
	if err != nil {
		return nil, unavailable(err)
	}
	root.Close()
	return d.mount.open(d.path)
}

// unavailable keeps an error that is fs.ErrNotExist or fs.ErrExist by accident
// from being taken for an answer.
func unavailable(err error) error { return fmt.Errorf("%v", err) }

func (s *staged) Write(p []byte) (int, error) {
	err := s.ctx.Err()
	switch {
	case s.done:
		return 0, s.problem("create", errEnded)
	case err != nil:
		return 0, s.problem("create", err)
	}
	n, err := s.file.Write(p)
	s.size += int64(n)
	return n, s.problem("create", err)
}

func (s *staged) Commit() error {
	if s.done {
		return s.problem("commit", errEnded)
	}
	defer s.Abort()
	return s.problem("commit", s.commit())
}

func (s *staged) commit() error {
	if s.opts.Size >= 0 && s.size != s.opts.Size {
		return refused(fmt.Sprintf("%d bytes written, %d announced", s.size, s.opts.Size))
	}
	if err := s.ctx.Err(); err != nil {
		return err
	}
	unlock, err := s.d.paths.lock(s.ctx, s.path)
	if err != nil {
		return err
	}
	defer unlock()
	if s.opts.IfMatch != "" {
		file, err := s.match()
		if err != nil {
			return err
		}
		defer file.Close()
	}
	if s.opts.IfAbsent {
		return s.file.CommitNew(s.path)
	}
	return s.file.Commit(s.path)
}

// match returns the object that is there, held, if it is the version to replace.
func (s *staged) match() (*os.File, error) {
	file, info, err := hold(s.root, s.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, origin.ErrChanged
	}
	if err != nil {
		return nil, err
	}
	now, err := stat(s.root, s.path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && (info.ETag != s.opts.IfMatch || now.ETag != s.opts.IfMatch) {
		err = origin.ErrChanged
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

func (s *staged) Abort() error {
	if s.done {
		return nil
	}
	s.done = true
	return s.problem("abort", errors.Join(s.file.Abort(), s.root.Close()))
}

// problem is as Dir's, but a file that is missing is no answer here: somebody
// has removed the staging folder, or the directory.
func (s *staged) problem(op string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		err = unavailable(err)
	}
	return s.d.problem(op, s.path, err)
}
