package caddymodule

import (
	"log/slog"
	"testing"

	"github.com/stevedores-org/nix-cache/caddymodule/cache"
)

// TestTakeBack: a directory never has two caches, however soon it is wanted back.
func TestTakeBack(t *testing.T) {
	var set closingCaches
	dir := t.TempDir()
	open := func() *loggedCache {
		c := newLoggedCache(dir, cache.Limits{}, slog.New(slog.NewTextHandler(t.Output(), nil)))
		c.Start()
		return c
	}
	c := open()
	for range 100 {
		set.close(dir, c)
		if c = set.takeBack(dir); c == nil {
			c = open()
		}
		if !c.Tiers().DiskOpen {
			t.Fatal("the directory is in use")
		}
	}
	set.close("other", newLoggedCache("", cache.Limits{}, slog.New(slog.DiscardHandler)))
	if set.takeBack(dir) != nil {
		t.Error("took back what nobody has given up")
	}
	set.close(dir, c)
	set.wait(t.Context())
}
