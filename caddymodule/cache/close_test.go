package cache

import (
	"bytes"
	"errors"
	"io"
	"testing"
)

// closing has a cache closed, and returns what comes of it once it waits.
func closing(b *bench) <-chan error {
	closed := make(chan error, 1)
	go func() { closed <- b.cache.Close() }()
	b.until("the cache is closing", func() bool {
		b.cache.mu.Lock()
		defer b.cache.mu.Unlock()
		return b.cache.mu.closing
	})
	return closed
}

// TestKeep: a cache that is kept is as it was, as often as it comes to that.
func TestKeep(t *testing.T) {
	b := newReadyBench(t)
	_, p, pkg := b.put("a", 3*testPart)
	gate := b.origin.HoldBody(p.String(), 100)
	o, err := b.files.Open(t.Context(), p, Wanted{})
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	for range 3 {
		closed := closing(b)
		if !b.cache.Keep() {
			t.Fatal("it was too late to keep a cache with a reader")
		}
		if err := <-closed; !errors.Is(err, ErrKept) {
			t.Errorf("Close of a cache that was kept: %v", err)
		}
		if b.cache.Keep() {
			t.Error("kept what nobody closes")
		}
	}
	_, late, latePkg := b.put("b", 1000)
	b.wantGet(late, latePkg.File, Miss)
	gate.Release()
	if got, err := io.ReadAll(o.Body); err != nil || !bytes.Equal(got, pkg.File) {
		t.Errorf("reader of a cache that was kept: %d bytes, %v; want all %d", len(got), err, len(pkg.File))
	}
	if b.close(); b.cache.Keep() {
		t.Error("kept what is closed")
	}
}

// TestCut: Close doesn't wait for readers any more, and they notice.
func TestCut(t *testing.T) {
	b := newReadyBench(t)
	_, p, _ := b.put("a", 3*testPart)
	gate := b.origin.HoldBody(p.String(), 100)
	defer gate.Release()
	o, err := b.files.Open(t.Context(), p, Wanted{})
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	closed := closing(b)
	b.cache.Cut()
	if err := <-closed; err != nil {
		t.Error(err)
	}
	if got, err := io.ReadAll(o.Body); err == nil {
		t.Errorf("%d bytes that look whole, of a fill that was cut", len(got))
	}
}
