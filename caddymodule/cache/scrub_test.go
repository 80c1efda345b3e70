package cache

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stevedores-org/nix-cache/caddymodule/nix"
)

// fileOf returns where a file of the disk tier lies.
func (b *bench) fileOf(p nix.CachePath) string {
	b.Helper()
	found, err := filepath.Glob(filepath.Join(b.dir, "objects", "*", b.files.key(p)+",*"))
	if err != nil || len(found) != 1 {
		b.Fatalf("files of %s: %q, %v", p, found, err)
	}
	return found[0]
}

// rot flips a bit of a file of the disk tier, and leaves its times.
func (b *bench) rot(p nix.CachePath) {
	b.Helper()
	file := b.fileOf(p)
	before, err := os.Stat(file)
	if err != nil {
		b.Fatal(err)
	}
	body, err := os.ReadFile(file)
	if err != nil {
		b.Fatal(err)
	}
	body[len(body)/2] ^= 1
	if err := errors.Join(os.WriteFile(file, body, 0o600), os.Chtimes(file, before.ModTime(), before.ModTime())); err != nil {
		b.Fatal(err)
	}
}

// TestScrub drops what has changed on the disk, large files and small ones, and
// nothing else.
func TestScrub(t *testing.T) {
	b := newReadyBench(t)
	var rotten, good []nix.CachePath
	for _, name := range []string{"a", "b"} {
		info, nar, _ := b.put(name, 2*testPart+100)
		for _, p := range []nix.CachePath{info, nar} {
			b.get(p)
			if name == "a" {
				rotten = append(rotten, p)
			} else {
				good = append(good, p)
			}
		}
	}
	b.settle()
	for _, p := range rotten {
		b.rot(p)
	}
	read := int64(0)
	s := &scrubber{cache: b.cache, tier: b.cache.disk.Load(), await: func(ctx context.Context) (int64, error) {
		read += testPart
		return testPart, ctx.Err()
	}}
	before := b.cache.Tiers().Disk
	for range 2 {
		s.pass(t.Context())
		for _, p := range rotten {
			if _, there := s.tier.Stat(b.files.key(p)); there {
				t.Errorf("%s is still there", p)
			}
			if _, there := b.cache.memory.get(b.files.key(p)); there {
				t.Errorf("%s is still in memory", p)
			}
		}
		for _, p := range good {
			if _, there := s.tier.Stat(b.files.key(p)); !there {
				t.Errorf("%s is gone", p)
			}
		}
	}
	if after := b.cache.Tiers().Disk; after.Entries != before.Entries-2 || after.Bytes >= before.Bytes {
		t.Errorf("the tier has %+v, before %+v", after, before)
	}
	if read < 3*2*testPart {
		t.Errorf("%d bytes were asked for", read)
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	s.pass(cancelled)
}

// TestScrubWaitsForQuiet: it reads while hardly anybody asks for anything, and
// nothing is brought.
func TestScrubWaitsForQuiet(t *testing.T) {
	b := newReadyBench(t)
	w := &idleWatch{cache: b.cache, tier: b.cache.disk.Load()}
	quiet := func(looks int) (budget int64) {
		for range looks {
			budget = w.look()
		}
		return budget
	}
	if quiet(quietPauses-1) != 0 || quiet(1) != minScrub {
		t.Error("it does not begin after some quiet pauses")
	}
	b.cache.asked.Add(quietRequests)
	if quiet(1) == 0 {
		t.Error("a few requests disturb it")
	}
	b.cache.asked.Add(quietRequests + 1)
	if quiet(1) != 0 || quiet(quietPauses-1) != 0 || quiet(1) == 0 {
		t.Error("it does not wait after a crowd of requests")
	}
	_, p, _ := b.put("a", 100)
	in := b.files.Incoming(p, -1)
	if quiet(1) != 0 || quiet(2*quietPauses) != 0 {
		t.Error("it does not wait for an upload")
	}
	in.Drop()
	if quiet(quietPauses) == 0 {
		t.Error("it does not begin after the upload")
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := w.await(ctx); err == nil {
		t.Error("it does not end")
	}
}
