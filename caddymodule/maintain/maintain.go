// Package maintain goes through what an origin has of a binary cache: it adds
// signatures to narinfos, and checks that all is as its narinfos say.
//
// It works beside servers and uploads: what it writes, it writes on the condition
// that nobody has changed it in the meantime. It takes no lock, and knows nothing
// of tiers, HTTP and configuration.
package maintain

import (
	"context"
	"iter"
	"strings"
	"sync"

	"github.com/stevedores-org/nix-cache/caddymodule/nix"
	"github.com/stevedores-org/nix-cache/caddymodule/origin"
)

// narinfosAfter yields the paths of the narinfos at an origin, in lexical order,
// that come after a path; "" is before all.
func narinfosAfter(ctx context.Context, o origin.Lister, after string) iter.Seq2[nix.CachePath, error] {
	return func(yield func(nix.CachePath, error) bool) {
		for entry, err := range o.List(ctx, "") {
			if err != nil {
				yield(nix.CachePath{}, err)
				return
			}
			if entry.Path <= after {
				continue
			}
			path, err := nix.ParseCachePath(entry.Path)
			if err == nil && path.Kind() == nix.KindNARInfo && !yield(path, nil) {
				return
			}
		}
	}
}

// Position tells how much of a cache comes before a narinfo, from 0 to 1: their
// names are spread evenly over all that are possible, so nobody need count them.
func Position(narinfo nix.CachePath) float64 {
	const digits = "0123456789abcdfghijklmnpqrsvwxyz" // Nix's, in lexical order
	position, unit := 0.0, 1.0
	for _, c := range []byte(narinfo.StorePathHash()) {
		unit /= float64(len(digits))
		position += unit * float64(strings.IndexByte(digits, c))
	}
	return position
}

// inOrder calls do for each value, at most parallel at a time, and yields what it
// returns in the order of the values. A slow one holds the others up only when
// some dozens have gone past it, so little is lost if the loop ends. The first
// error ends the sequence; no call of do outlives it.
func inOrder[T, R any](ctx context.Context, parallel int, values func(context.Context) iter.Seq2[T, error], do func(context.Context, T) (R, error)) iter.Seq2[R, error] {
	return func(yield func(R, error) bool) {
		var workers sync.WaitGroup
		defer workers.Wait()
		within, cancel := context.WithCancel(ctx)
		defer cancel()
		results := make(chan chan result[R], 4*parallel)
		workers.Go(func() {
			defer close(results)
			dispatch(within, &workers, results, make(chan struct{}, parallel), values, do)
		})
		for pending := range results {
			r := <-pending
			if !yield(r.value, r.err) || r.err != nil {
				return
			}
		}
		if err := ctx.Err(); err != nil {
			yield(*new(R), err)
		}
	}
}

type result[R any] struct {
	value R
	err   error
}

// dispatch starts a worker for each value as places come free, and sends the
// channel that its result will come from.
func dispatch[T, R any](ctx context.Context, workers *sync.WaitGroup, results chan<- chan result[R], places chan struct{},
	values func(context.Context) iter.Seq2[T, error], do func(context.Context, T) (R, error),
) {
	for value, err := range values(ctx) {
		select {
		case places <- struct{}{}:
		case <-ctx.Done():
			return
		}
		pending := make(chan result[R], 1)
		select {
		case results <- pending:
		case <-ctx.Done():
			return
		}
		if err != nil {
			pending <- result[R]{err: err}
			return
		}
		workers.Go(func() {
			defer func() { <-places }()
			r, err := do(ctx, value)
			pending <- result[R]{r, err}
		})
	}
}
