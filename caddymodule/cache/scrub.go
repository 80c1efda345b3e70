package cache

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stevedores-org/nix-cache/caddymodule/cache/disk"
	"github.com/stevedores-org/nix-cache/caddymodule/nix"
)

const (
	// scrubPause lies between two looks at whether the cache is idle, and between
	// two reads of a scrub while it is.
	scrubPause = time.Second

	// Idle is a cache that has been asked for at most quietRequests in each of
	// quietPauses pauses, with no fill and no upload under way.
	quietRequests = 10
	quietPauses   = 10

	// A scrub reads at least minScrub in a pause, and what it takes to get through
	// the tier in scrubTime of idleness. The next one begins scrubEvery after it.
	minScrub   = 1 << 20
	scrubTime  = 48 * time.Hour
	scrubEvery = 24 * time.Hour
)

// scrubber hashes what is in the disk tier while the cache is idle: a disk can
// lose bits without a trace. What is wrong is dropped.
type scrubber struct {
	cache *Cache
	tier  *disk.Tier
	await func(context.Context) (budget int64, err error) // of bytes that may be read now
}

// scrub goes through the tier again and again.
func (c *Cache) scrub(tier *disk.Tier) {
	watch := idleWatch{cache: c, tier: tier}
	s := &scrubber{cache: c, tier: tier, await: watch.await}
	for c.ctx.Err() == nil {
		s.pass(c.ctx)
		if err := pause(c.ctx, scrubEvery); err != nil {
			return
		}
	}
}

// pass goes through the tier once.
func (s *scrubber) pass(ctx context.Context) {
	if _, err := s.await(ctx); err != nil {
		return
	}
	for key := range s.tier.Keys() {
		if s.check(ctx, key); ctx.Err() != nil {
			return
		}
	}
}

// errRotten is the class of errors of files that are not what they were.
var errRotten = errors.New("its bytes are not the ones that were stored")

// check reads a file and compares it. One that is wrong, or that the disk can't
// read, is dropped.
func (s *scrubber) check(ctx context.Context, key string) {
	f, meta, err := s.tier.Inspect(key)
	if err != nil {
		return // it has been evicted, or nothing can be opened just now
	}
	defer f.Close()
	err = s.read(ctx, f, key, meta)
	if !errors.Is(err, errRotten) && !errors.Is(err, unix.EIO) {
		return
	}
	s.cache.memory.forget(key)
	if s.tier.Drop(f.File) {
		s.cache.log.Error("disk tier entry dropped: a scrub found it damaged; see whether the disk is failing", "file", key, "error", err)
	}
}

func (s *scrubber) read(ctx context.Context, f *disk.Inspection, key string, meta disk.Meta) error {
	sum := sha256.New()
	var budget int64
	for {
		if budget <= 0 {
			more, err := s.await(ctx)
			if err != nil {
				return err
			}
			budget += more
		}
		b, err := f.Next()
		if err != nil {
			return err
		}
		if len(b) == 0 {
			return compare(key, meta, sum)
		}
		sum.Write(b)
		budget -= int64(len(b))
	}
}

// compare compares the hash of a file of the tier with what is known of it.
func compare(key string, meta disk.Meta, hash hash.Hash) error {
	sum := hash.Sum(nil)
	if meta.Tag != "" {
		if tagOf(sum) != meta.Tag {
			return errRotten
		}
		return nil
	}
	_, name, _ := strings.Cut(key, "-")
	p, err := nix.ParseCachePath("nar/" + name)
	if err != nil {
		return nil // there is nothing to compare it with
	}
	if got := nix.SHA256(sum); got != p.FileHash() {
		return fmt.Errorf("%w: it hashes to %s", errRotten, got)
	}
	return nil
}

// idleWatch tells when a cache is idle. Its zero value, but for the cache, has seen
// nothing yet. For one goroutine.
type idleWatch struct {
	cache *Cache
	tier  *disk.Tier
	asked uint64 // Cache.asked at the last look
	quiet int    // pauses in a row
}

// await waits for the next pause at whose end the cache is idle.
func (w *idleWatch) await(ctx context.Context) (budget int64, err error) {
	for {
		if err := pause(ctx, scrubPause); err != nil {
			return 0, err
		}
		if budget := w.look(); budget > 0 {
			return budget, nil
		}
	}
}

// look is to be called after each pause. It returns how much may be read in the
// next one.
func (w *idleWatch) look() (budget int64) {
	asked := w.cache.asked.Load()
	w.quiet++
	if asked-w.asked > quietRequests || w.cache.isBusy() || !w.tier.Ready() || w.tier.Stalled() {
		w.quiet = 0
	}
	w.asked = asked
	if w.quiet < quietPauses {
		return 0
	}
	return max(w.tier.Counters().Bytes/int64(scrubTime/scrubPause), minScrub)
}

// isBusy reports whether a fill or an upload is under way.
func (c *Cache) isBusy() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.mu.flights)+len(c.mu.outdated)+len(c.mu.incoming) > 0
}
