package dir

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"iter"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/stevedores-org/nix-cache/caddymodule/origin"
)

// List implements [origin.Lister].
func (d *Dir) List(ctx context.Context, prefix string) iter.Seq2[origin.Entry, error] {
	return func(yield func(origin.Entry, error) bool) {
		err := d.list(ctx, prefix, func(e origin.Entry) bool { return yield(e, nil) })
		if err != nil && !errors.Is(err, errStop) {
			yield(origin.Entry{}, d.problem("list", prefix, err))
		}
	}
}

// errStop ends a walk that the consumer has had enough of.
var errStop = errors.New("stop")

func (d *Dir) list(ctx context.Context, prefix string, yield func(origin.Entry) bool) error {
	root, err := d.mount.open(d.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer root.Close()
	w := walk{ctx: ctx, root: root, prefix: prefix, yield: yield}
	return w.dir("")
}

type walk struct {
	ctx    context.Context
	root   *os.Root
	prefix string
	yield  func(origin.Entry) bool
}

// dir yields what is below the directory named base, which is "" or ends in a
// slash, in the order of whole paths.
func (w *walk) dir(base string) error {
	entries, err := fs.ReadDir(w.root.FS(), path.Clean(base))
	if errors.Is(err, fs.ErrNotExist) && base != "" {
		return nil
	}
	if err != nil {
		return err
	}
	paths := w.matching(base, entries)
	// "a.b" comes before "a/b", so directories are sorted with their slash.
	slices.SortFunc(paths, cmp.Compare[string])
	for _, p := range paths {
		if err := w.visit(p); err != nil {
			return err
		}
	}
	return nil
}

// matching returns the paths of those entries of base that the prefix allows,
// those of directories with a slash at the end.
func (w *walk) matching(base string, entries []fs.DirEntry) []string {
	var paths []string
	for _, e := range entries {
		p := base + e.Name()
		switch {
		case p == staging:
		case !e.IsDir() && strings.HasPrefix(p, w.prefix):
			paths = append(paths, p)
		case e.IsDir() && (strings.HasPrefix(p+"/", w.prefix) || strings.HasPrefix(w.prefix, p+"/")):
			paths = append(paths, p+"/")
		}
	}
	return paths
}

func (w *walk) visit(p string) error {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	if strings.HasSuffix(p, "/") {
		return w.dir(p)
	}
	info, err := stat(w.root, p)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil // It has been deleted since, or is no regular file.
	case err != nil:
		return err
	case !w.yield(origin.Entry{Path: p, Info: info}):
		return errStop
	}
	return nil
}
