package cache

import (
	"errors"
	"io/fs"
	"testing"

	"github.com/stevedores-org/nix-cache/caddymodule/nix"
	"github.com/stevedores-org/nix-cache/caddymodule/origin"
	"github.com/stevedores-org/nix-cache/caddymodule/origin/origintest"
)

// writer is a bench's origin for writers.
func (b *bench) writer() origin.Origin {
	return WriteThrough(b.origin, func() []*Namespace { return []*Namespace{b.files} })
}

// write writes a file, and returns Commit's error.
func (b *bench) write(o origin.Writer, p nix.CachePath, body []byte, opts origin.CreateOptions) error {
	b.Helper()
	opts.Size = int64(len(body))
	staged, err := o.Create(b.Context(), p.String(), opts)
	if err != nil {
		b.Fatal(err)
	}
	defer staged.Abort()
	if _, err := staged.Write(body); err != nil {
		b.Fatal(err)
	}
	return staged.Commit()
}

// TestWriteThrough: what a write has changed, or may have, shows at once; what it
// has not, goes on being served.
func TestWriteThrough(t *testing.T) {
	for name, test := range map[string]struct {
		commit  func(*bench) // prepares what Commit does
		opts    origin.CreateOptions
		forgets bool
	}{
		"written":         {func(*bench) {}, origin.CreateOptions{}, true},
		"there already":   {func(*bench) {}, origin.CreateOptions{IfAbsent: true}, false},
		"changed already": {func(*bench) {}, origin.CreateOptions{IfMatch: "another"}, false},
		"busy": {func(b *bench) {
			b.origin.OnCommit(func(path string) error { return &origin.BusyError{Op: "commit", Path: path} })
		}, origin.CreateOptions{}, false},
		"refused": {func(b *bench) {
			b.origin.OnCommit(func(string) error { return errors.New("refused") })
		}, origin.CreateOptions{}, false},
		"without an answer": {func(b *bench) {
			b.origin.OnCommitted(func(path string) error { return origintest.Unavailable("commit", path) })
		}, origin.CreateOptions{}, true},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			p, _, pkg := b.put("a", 100)
			b.wantGet(p, pkg.Text(), Miss)
			b.settle()
			test.commit(b)
			again := append(pkg.Text(), "Sig: x:x\n"...)
			b.write(b.writer(), p, again, test.opts)
			if test.forgets {
				b.wantGet(p, again, Miss)
				return
			}
			b.wantGet(p, pkg.Text(), Memory)
		})
	}
}

func TestWriteThroughEndsAbsence(t *testing.T) {
	b := newBench(t)
	info, nar, pkg := b.put("a", 1000)
	for p, file := range map[nix.CachePath][]byte{info: pkg.Text(), nar: pkg.File} {
		b.origin.Remove(p.String())
		wantAbsent(t, b, p, Miss)
		if err := b.write(b.writer(), p, file, origin.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		b.wantGet(p, file, Miss)
	}
}

// TestWriterFindsAFileGone: the copies go too, and what is fetched of it is not
// kept.
func TestWriterFindsAFileGone(t *testing.T) {
	for name, find := range map[string]func(*testing.T, origin.Origin, string) error{
		"stat": func(t *testing.T, o origin.Origin, path string) error {
			_, err := o.Stat(t.Context(), path)
			return err
		},
		"open": func(t *testing.T, o origin.Origin, path string) error {
			_, _, err := o.Open(t.Context(), path, origin.OpenOptions{})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newReadyBench(t)
			info, nar, pkg := b.put("a", 1000)
			for p, file := range map[nix.CachePath][]byte{info: pkg.Text(), nar: pkg.File} {
				b.wantGet(p, file, Miss)
				b.settle()
				b.origin.Remove(p.String())
				if err := find(t, b.writer(), p.String()); !errors.Is(err, fs.ErrNotExist) {
					t.Fatal(err)
				}
				wantAbsent(t, b, p, Miss)
			}
		})
	}
}

func TestDeleteThrough(t *testing.T) {
	for name, test := range map[string]struct {
		err  error
		kept bool
	}{
		"deleted":           {nil, false},
		"absent":            {fs.ErrNotExist, false},
		"without an answer": {origintest.Unavailable("delete", "x"), false},
		"busy":              {&origin.BusyError{Op: "delete"}, true},
		"refused":           {errors.New("refused"), true},
	} {
		t.Run(name, func(t *testing.T) {
			b := newReadyBench(t)
			_, p, pkg := b.put("a", 1000)
			b.wantGet(p, pkg.File, Miss)
			b.settle()
			b.origin.OnDelete(func(string) error { return test.err })
			if err := b.writer().Delete(t.Context(), p.String()); !errors.Is(err, test.err) {
				t.Fatal(err)
			}
			if _, _, kept := b.files.statTiers(p, b.files.key(p)); kept != test.kept {
				t.Errorf("kept: %v, want %v", kept, test.kept)
			}
		})
	}
}
