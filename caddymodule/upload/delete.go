package upload

import (
	"context"
	"crypto/sha256"
	"errors"
	"io/fs"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/stevedores-org/nix-cache/caddymodule/nix"
)

// Deletion says when a file is deleted.
type Deletion uint8

const (
	IfUnreferenced Deletion = iota // a NAR only if no narinfo refers to it: else Referenced
	Regardless
)

// Delete removes the file at path. Absence is fs.ErrNotExist.
//
// A narinfo that is uploaded meanwhile may find its NAR before it is deleted here,
// and be stored after the listing has passed its name. Nodes don't know of each
// other's uploads and R2 has no transactions, so this can't be excluded. It takes
// an upload that begins before the search for referrers ends and is stored after the
// search has begun; what is missing then is back after the next push of it.
func (r *Receiver) Delete(ctx context.Context, path nix.CachePath, when Deletion) error {
	if _, err := r.Origin.Stat(ctx, path.String()); err != nil {
		return err
	}
	if path.Kind() == nix.KindNAR && when == IfUnreferenced {
		if err := r.requireUnreferenced(ctx, path); err != nil {
			return err
		}
	}
	return r.Origin.Delete(ctx, path.String())
}

// parallelReads is how many narinfos are read at a time in search of one that
// refers to a NAR.
const parallelReads = 16

// requireUnreferenced lists all files and reads those narinfos of which it is
// not known what they refer to, until one refers to the NAR.
func (r *Receiver) requireUnreferenced(ctx context.Context, nar nix.CachePath) error {
	g, within := errgroup.WithContext(ctx)
	g.SetLimit(parallelReads)
	var broken error // the listing
	for entry, err := range r.Origin.List(within, "") {
		if err != nil {
			broken = err
			break
		}
		path, err := nix.ParseCachePath(entry.Path)
		if err != nil || path.Kind() != nix.KindNARInfo {
			continue
		}
		if known, ok := r.referred.get(path, entry.ETag); ok && known != nar.FileHash() {
			continue
		}
		g.Go(func() error { return r.requireOtherNAR(within, path, nar) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return broken
}

// requireOtherNAR reads a narinfo and refuses if it refers to the NAR.
func (r *Receiver) requireOtherNAR(ctx context.Context, path, nar nix.CachePath) error {
	text, version, err := readText(ctx, r.Origin, path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // deleted since it was listed
	}
	if err != nil {
		return err
	}
	fileHash := referredBy(text)
	r.referred.add(path, version, fileHash)
	if fileHash != nar.FileHash() {
		return nil
	}
	owner := path.String()
	if n, err := nix.ParseNARInfo(text); err == nil {
		owner = n.StorePath.String() + " (" + owner + ")"
	}
	return reject(Referenced, "%s is the NAR of %s; delete that narinfo first", nar, owner)
}

// referredBy returns the file hash of the NAR that a narinfo refers to, be it
// well-formed or not; zero if it is none of this cache. Of several URLs Nix
// takes the last one.
func referredBy(narinfo []byte) nix.SHA256 {
	url := ""
	for line := range strings.Lines(string(narinfo)) {
		if value, ok := strings.CutPrefix(line, "URL: "); ok {
			url, _, _ = strings.Cut(strings.TrimSpace(value), "?")
		}
	}
	path, err := nix.ParseCachePath(url)
	if err != nil {
		return nix.SHA256{}
	}
	return path.FileHash()
}

// maxReferred bounds the memory of referred, about 100 bytes each.
const maxReferred = 1 << 18

// referred remembers which NARs narinfos refer to, so that deleting many NARs
// takes one reading of the narinfos and a listing for each NAR. An entry is of
// one version of a narinfo, so it is never wrong. Its zero value is ready for use.
type referred struct {
	mu struct {
		sync.Mutex
		known map[versionKey]nix.SHA256
	}
}

// versionKey stands for a path and an ETag.
type versionKey [sha256.Size]byte

func keyOf(path nix.CachePath, etag string) versionKey {
	return sha256.Sum256([]byte(path.String() + "\n" + etag))
}

func (m *referred) get(path nix.CachePath, etag string) (nix.SHA256, bool) {
	key := keyOf(path, etag)
	m.mu.Lock()
	defer m.mu.Unlock()
	fileHash, ok := m.mu.known[key]
	return fileHash, ok
}

// add makes room by forgetting any entry: all of them are asked for in turn, so
// the oldest would be the one that is needed next.
func (m *referred) add(path nix.CachePath, etag string, fileHash nix.SHA256) {
	if etag == "" {
		return
	}
	key := keyOf(path, etag)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.mu.known == nil {
		m.mu.known = make(map[versionKey]nix.SHA256)
	}
	if len(m.mu.known) >= maxReferred {
		for any := range m.mu.known {
			delete(m.mu.known, any)
			break
		}
	}
	m.mu.known[key] = fileHash
}
