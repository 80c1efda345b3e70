package cache

import (
	"bytes"
	"errors"
	"io/fs"
	"testing"

	"github.com/stevedores-org/nix-cache/caddymodule/nix"
)

// TestForgetBesideAPromotion: a reader that opened the old file on disk while it was
// being forgotten does not bring it back to memory.
func TestForgetBesideAPromotion(t *testing.T) {
	b := newReadyBench(t)
	p, _, _ := b.put("a", 100)
	b.get(p)
	b.settle()
	b.cache.memory.forget(b.files.key(p)) // it is on disk only, as after a restart
	opened, goOn := make(chan struct{}), make(chan struct{})
	policy := remote
	policy.Verify = Verification{Name: "gate", Check: func(nix.CachePath, []byte) error {
		close(opened)
		<-goOn
		return nil
	}}
	b.files = b.cache.Namespace(b.origin.String(), b.origin, policy, b.counters, b.files.log)
	if err := b.origin.Delete(t.Context(), p.String()); err != nil {
		t.Fatal(err)
	}

	before := b.cache.forgets.Load()
	b.cache.damage.mu.Lock() // which Forget waits for, before it comes to the tiers
	forgotten, read := make(chan struct{}), make(chan struct{})
	go func() { b.files.Forget(p); close(forgotten) }()
	b.until("Forget has begun", func() bool { return b.cache.forgets.Load() > before })
	go func() { b.get(p); close(read) }()
	<-opened
	b.cache.damage.mu.Unlock()
	<-forgotten
	close(goOn)
	<-read
	b.cache.memory.settle()
	if _, result, err := b.get(p); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after Forget: %v, %v", result, err)
	}
}

// TestForgetWithoutATier: what is deleted while another process has the directory
// does not come back when it is taken over.
func TestForgetWithoutATier(t *testing.T) {
	first := newReadyBench(t)
	narinfo, nar, _ := first.put("a", testPart)
	first.get(narinfo)
	first.get(nar)
	first.settle()
	second := benchIn(t, first.dir, first.origin)
	second.cache.Start()
	for _, p := range []nix.CachePath{narinfo, nar} {
		if err := first.origin.Delete(t.Context(), p.String()); err != nil {
			t.Fatal(err)
		}
		second.files.Forget(p)
	}
	first.close()
	second.until("the directory is taken over", func() bool { return second.cache.disk.Load() != nil })
	for _, p := range []nix.CachePath{narinfo, nar} {
		if _, result, err := second.get(p); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v, %v", p, result, err)
		}
	}
}

// TestFillThatIsAboutToLand: a reader that can't follow it waits until it has landed.
func TestFillThatIsAboutToLand(t *testing.T) {
	b := newReadyBench(t)
	_, p, pkg := b.put("a", 2*testPart)
	key := b.files.key(p)
	ended := newFlight(func() {})
	ended.fill = &fill{}
	ended.fill.mu.ended = true
	close(ended.ready)
	b.cache.mu.Lock()
	b.cache.mu.flights[key] = ended
	b.cache.mu.Unlock()

	lookups := b.cache.landed.Load()
	read := make(chan []byte)
	go func() {
		got, _, _ := b.get(p)
		read <- got
	}()
	b.until("the reader has joined", func() bool {
		b.cache.mu.Lock()
		defer b.cache.mu.Unlock()
		return ended.waiters > 0
	})
	b.cache.land(key, ended)
	if got := <-read; !bytes.Equal(got, pkg.File) {
		t.Errorf("read %d bytes, want %d", len(got), len(pkg.File))
	}
	if ended.waiters != 1 || b.cache.landed.Load() == lookups {
		t.Errorf("joined %d times, want once", ended.waiters)
	}
}
