package upload

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/stevedores-org/nix-cache/caddymodule/nix"
)

// References says which of a narinfo's references must be there before it.
type References uint8

const (
	AnyReferences       References = iota // none: they may be in another cache
	ReferencesSameCache                   // each, at this origin
)

// ParseReferences reads "off" or "same_cache".
func ParseReferences(s string) (References, error) {
	switch s {
	case "off":
		return AnyReferences, nil
	case "same_cache":
		return ReferencesSameCache, nil
	default:
		return 0, fmt.Errorf("expected off or same_cache, got %q", s)
	}
}

const (
	// parallelStats is how many references of one narinfo are looked for at
	// a time.
	parallelStats = 16

	// maxNamed is how many missing references a refusal names: their names
	// have up to 211 characters, and clients show less than 1 kB.
	maxNamed = 3
)

// requireReferences checks that the narinfos of all references but the path's
// own are in place, by one operation at the origin for each. What was there a
// moment ago is not remembered: another node may have deleted it, and then the
// answer would be wrong.
func (r *Receiver) requireReferences(ctx context.Context, n *nix.NARInfo) error {
	if r.RequireReferences == AnyReferences {
		return nil
	}
	absent, err := r.missingReferences(ctx, n)
	switch {
	case err != nil:
		return err
	case len(absent) == 0:
		return nil
	}
	slices.Sort(absent)
	more := ""
	if len(absent) > maxNamed {
		absent, more = absent[:maxNamed], " and more"
	}
	return reject(ReferenceMissing, "it refers to what is not in this cache: %s%s; upload these first, with all that they depend on",
		strings.Join(absent, " "), more)
}

// missingReferences returns the missing ones, of many only some.
func (r *Receiver) missingReferences(ctx context.Context, n *nix.NARInfo) ([]string, error) {
	var missing missing
	g, within := errgroup.WithContext(ctx)
	g.SetLimit(parallelStats)
	for _, ref := range n.References {
		if within.Err() != nil {
			break
		}
		if ref == n.StorePath {
			continue
		}
		g.Go(func() error {
			_, err := r.Origin.Stat(within, nix.NARInfoPath(ref).String())
			if errors.Is(err, fs.ErrNotExist) {
				return missing.add(ref.String())
			}
			return err
		})
	}
	if err := g.Wait(); err != nil && err != errEnough {
		return nil, err
	}
	return missing.mu.paths, ctx.Err()
}

// missing gathers what is missing, until that is enough to tell.
type missing struct {
	mu struct {
		sync.Mutex
		paths []string
	}
}

var errEnough = errors.New("enough are missing")

func (m *missing) add(path string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mu.paths = append(m.mu.paths, path)
	if len(m.mu.paths) > maxNamed {
		return errEnough
	}
	return nil
}
