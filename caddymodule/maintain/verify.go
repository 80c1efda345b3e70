package maintain

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/stevedores-org/nix-cache/caddymodule/nix"
	"github.com/stevedores-org/nix-cache/caddymodule/origin"
	"github.com/stevedores-org/nix-cache/caddymodule/upload"
)

// Report is what was found about one file: nothing, if it is as it should be.
type Report struct {
	Path     nix.CachePath
	Problems []string // one line each
	Notes    []string // the same; what need not be wrong
	Bytes    int64    // of NARs that were read

	nar string // the path of a narinfo's NAR; "" if it tells none
}

func (r *Report) problem(format string, args ...any) {
	r.Problems = append(r.Problems, fmt.Sprintf(format, args...))
}

// Checker checks narinfos and the NARs they describe. It writes nothing.
type Checker struct {
	Origin origin.Origin

	// Trusted are the keys of which one must have signed a narinfo. If there
	// are none, signatures are not checked.
	Trusted nix.PublicKeys

	// Quick leaves the NARs unread: only their sizes are compared.
	Quick bool

	// Parallel is how many narinfos are checked at a time, at least 1.
	Parallel int
}

// Paths checks the narinfos at these paths.
func (c *Checker) Paths(ctx context.Context, paths ...nix.CachePath) iter.Seq2[Report, error] {
	return c.check(ctx, paths, &inventory{origin: c.Origin}, func(r *Report) {
		r.problem("there is no such narinfo")
	})
}

// All checks every narinfo, and notes the NARs that no narinfo refers to. It
// keeps the paths of all files in memory, some 150 bytes each.
func (c *Checker) All(ctx context.Context) iter.Seq2[Report, error] {
	return func(yield func(Report, error) bool) {
		files, err := takeInventory(ctx, c.Origin)
		if err != nil {
			yield(Report{}, err)
			return
		}
		deleted := func(*Report) {}
		for report, err := range c.check(ctx, files.narinfos, files, deleted) {
			if !yield(report, err) || err != nil {
				return
			}
			files.refer(report.nar)
		}
		for _, report := range files.unreferenced() {
			if !yield(report, nil) {
				return
			}
		}
	}
}

// check reports on paths in their order; absent is told of those that are not
// there.
func (c *Checker) check(ctx context.Context, paths []nix.CachePath, files *inventory, absent func(*Report)) iter.Seq2[Report, error] {
	values := func(context.Context) iter.Seq2[nix.CachePath, error] {
		return func(yield func(nix.CachePath, error) bool) {
			for _, path := range paths {
				if !yield(path, nil) {
					return
				}
			}
		}
	}
	return inOrder(ctx, c.Parallel, values, func(ctx context.Context, path nix.CachePath) (Report, error) {
		report := Report{Path: path}
		err := c.checkNARInfo(ctx, &report, files)
		if errors.Is(err, fs.ErrNotExist) {
			absent(&report)
			err = nil
		}
		if err != nil {
			return report, fmt.Errorf("verify %s: %w", path, err)
		}
		return report, nil
	})
}

// checkNARInfo is an error only if the origin did not answer, or has no narinfo
// there.
func (c *Checker) checkNARInfo(ctx context.Context, r *Report, files *inventory) error {
	n, err := c.read(ctx, r.Path)
	if malformed, ok := errors.AsType[*upload.MalformedError](err); ok {
		r.problem("%v", malformed.Err)
		return nil
	}
	if err != nil {
		return err
	}
	r.nar = n.URL()
	if c.Trusted.Len() > 0 {
		if _, err := c.Trusted.Verify(n); err != nil {
			r.problem("%v", err)
		}
	}
	if err := c.checkReferences(ctx, r, n, files); err != nil {
		return err
	}
	return c.checkNAR(ctx, r, n, files)
}

func (c *Checker) read(ctx context.Context, path nix.CachePath) (n *nix.NARInfo, err error) {
	err = retry(ctx, func() (err error) {
		n, _, err = upload.ReadNARInfo(ctx, c.Origin, path)
		return err
	})
	return n, err
}

// checkReferences notes what is not there: it may be in another cache.
func (c *Checker) checkReferences(ctx context.Context, r *Report, n *nix.NARInfo, files *inventory) error {
	var missing []string
	for _, ref := range n.References {
		if ref == n.StorePath {
			continue
		}
		_, err := files.size(ctx, nix.NARInfoPath(ref).String())
		if errors.Is(err, fs.ErrNotExist) {
			missing = append(missing, ref.String())
		} else if err != nil {
			return err
		}
	}
	if len(missing) > 0 {
		const shown = 3
		text := strings.Join(missing[:min(len(missing), shown)], ", ")
		if more := len(missing) - shown; more > 0 {
			text += fmt.Sprintf(" and %d more", more)
		}
		r.Notes = append(r.Notes, "refers to what is not in this cache: "+text)
	}
	return nil
}

func (c *Checker) checkNAR(ctx context.Context, r *Report, n *nix.NARInfo, files *inventory) error {
	size, err := files.size(ctx, r.nar)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		r.problem("%s is not there", r.nar)
		return nil
	case err != nil:
		return err
	case size != n.FileSize:
		r.problem("FileSize is %d, but %s has %d bytes", n.FileSize, r.nar, size)
		return nil
	case c.Quick:
		return nil
	}
	return c.checkContent(ctx, r, n)
}

// inventory knows the sizes of files: of those listed, and of others by asking.
// It is not changed while it is asked.
type inventory struct {
	origin   origin.Origin
	narinfos []nix.CachePath // in lexical order
	files    map[string]file // narinfos and NARs
	referred map[string]bool // NARs
}

type file struct {
	size  int64     // bytes
	since time.Time // zero if the origin doesn't tell
}

func takeInventory(ctx context.Context, o origin.Origin) (*inventory, error) {
	files := &inventory{origin: o, files: make(map[string]file), referred: make(map[string]bool)}
	for entry, err := range o.List(ctx, "") {
		if err != nil {
			return nil, err // of the listing, as it says
		}
		path, err := nix.ParseCachePath(entry.Path)
		if err != nil {
			continue // it is not a binary cache's, or of no matter here
		}
		f := file{size: entry.Size, since: entry.ModTime}
		switch path.Kind() {
		case nix.KindNARInfo:
			files.narinfos = append(files.narinfos, path)
			files.files[entry.Path] = f
		case nix.KindNAR:
			files.files[entry.Path] = f
		}
	}
	return files, nil
}

// size asks about a file that was not listed: it may be younger than the list.
func (files *inventory) size(ctx context.Context, path string) (int64, error) {
	if f, listed := files.files[path]; listed {
		return f.size, nil
	}
	var info origin.Info
	err := retry(ctx, func() (err error) {
		info, err = files.origin.Stat(ctx, path)
		return err
	})
	return info.Size, err
}

// refer notes that a narinfo refers to a NAR.
func (files *inventory) refer(nar string) { files.referred[nar] = true }

// unreferenced reports the NARs that no narinfo refers to, in lexical order.
func (files *inventory) unreferenced() []Report {
	var reports []Report
	for name, f := range files.files {
		path, err := nix.ParseCachePath(name)
		if err != nil || path.Kind() != nix.KindNAR || files.referred[name] {
			continue
		}
		note := fmt.Sprintf("no narinfo refers to it: %d bytes", f.size)
		if !f.since.IsZero() {
			note += ", of " + f.since.UTC().Format("2006-01-02 15:04 MST")
		}
		reports = append(reports, Report{Path: path, Notes: []string{note}})
	}
	slices.SortFunc(reports, func(a, b Report) int { return strings.Compare(a.Path.String(), b.Path.String()) })
	return reports
}
