package cache

import (
	"context"
	"errors"
	"io"
	"io/fs"

	"github.com/stevedores-org/nix-cache/caddymodule/nix"
	"github.com/stevedores-org/nix-cache/caddymodule/origin"
)

// WriteThrough returns the origin for those who write. What they change there, the
// namespaces over it know when Commit or Delete returns, and what they find to be
// gone, too. A write that was refused, or not even sent, changes nothing in them.
// over is asked anew each time.
func WriteThrough(o origin.Origin, over func() []*Namespace) origin.Origin {
	return &writeThrough{o, over}
}

type writeThrough struct {
	origin.Origin
	over func() []*Namespace
}

// Open implements [origin.Reader].
func (w *writeThrough) Open(ctx context.Context, path string, opts origin.OpenOptions) (origin.Info, io.ReadCloser, error) {
	info, body, err := w.Origin.Open(ctx, path, opts)
	w.lacks(path, err)
	return info, body, err
}

// Stat implements [origin.Reader].
func (w *writeThrough) Stat(ctx context.Context, path string) (origin.Info, error) {
	info, err := w.Origin.Stat(ctx, path)
	w.lacks(path, err)
	return info, err
}

// lacks has the namespaces drop what they have of a file that is gone.
func (w *writeThrough) lacks(path string, err error) {
	if errors.Is(err, fs.ErrNotExist) {
		w.each(path, (*Namespace).Gone)
	}
}

// Create implements [origin.Writer].
func (w *writeThrough) Create(ctx context.Context, path string, opts origin.CreateOptions) (origin.Staged, error) {
	staged, err := w.Origin.Create(ctx, path, opts)
	if err != nil {
		return nil, err
	}
	return &writtenThrough{staged, func() { w.each(path, (*Namespace).Uploaded) }}, nil
}

// writtenThrough is a file in the making.
type writtenThrough struct {
	origin.Staged
	changed func()
}

// Commit implements [origin.Staged].
func (s *writtenThrough) Commit() error {
	err := s.Staged.Commit()
	if mayHaveWritten(err) {
		s.changed()
	}
	return err
}

// Delete implements [origin.Writer].
func (w *writeThrough) Delete(ctx context.Context, path string) error {
	err := w.Origin.Delete(ctx, path)
	if mayHaveWritten(err) || errors.Is(err, fs.ErrNotExist) {
		w.each(path, (*Namespace).Forget)
	}
	return err
}

// mayHaveWritten reports whether a write that was sent has taken effect, as far as
// its error tells: see [origin.Staged].
func mayHaveWritten(err error) bool {
	return err == nil || errors.As(err, new(*origin.UnavailableError))
}

func (w *writeThrough) each(path string, do func(*Namespace, nix.CachePath)) {
	p, err := nix.ParseCachePath(path)
	if err != nil {
		return // none that is cached
	}
	for _, n := range w.over() {
		do(n, p)
	}
}

// Gone drops every copy of a file that the origin has been found to lack. Where
// there is none it does nothing: an upload of the file may be under way.
func (n *Namespace) Gone(p nix.CachePath) {
	if n.Keeps(p) {
		n.forget(p)
	}
}

// Keeps reports whether a file would be described without asking the origin: since
// the tiers have it, or a fill brings it.
func (n *Namespace) Keeps(p nix.CachePath) bool {
	n.cache.Start()
	key := n.key(p)
	_, _, kept := n.statTiers(p, key)
	_, filling := n.cache.filling(key)
	return kept || filling
}
