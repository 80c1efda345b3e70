package cache

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"
)

var testClient = netip.MustParseAddr("192.0.2.1")

func TestRecent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recent{span: time.Minute}
		for want := range uint32(3) {
			if got := r.add(1); got != want+1 {
				t.Errorf("added %d times, want %d", got, want+1)
			}
			time.Sleep(25 * time.Second)
		}
		if r.has(2) || !r.has(1) {
			t.Error("it has what was not added, or lacks what was")
		}
		time.Sleep(2 * time.Minute)
		if r.has(1) {
			t.Error("what was added is remembered for more than twice the span")
		}
		for id := range uint64(3 * maxRecent) {
			r.add(id)
		}
		if n := len(r.mu.now) + len(r.mu.before); n > 2*maxRecent {
			t.Errorf("%d entries, want %d at most", n, 2*maxRecent)
		}
	})
}

// TestRepeatedRequestsAreHashed: the first, the second and the fourth, by whoever
// has got the file before.
func TestRepeatedRequestsAreHashed(t *testing.T) {
	for _, after := range []int{0, 1, 3} {
		b := newReadyBench(t)
		_, p, pkg := b.put("a", testPart)
		b.wantGet(p, pkg.File, Miss)
		b.settle()
		again := func() Result {
			o, err := b.files.Open(t.Context(), p, Wanted{Client: testClient})
			if err != nil {
				t.Fatal(err)
			}
			defer o.Close()
			return o.Result
		}
		b.files.Delivered(p, testClient)
		for range after {
			again()
		}
		flipUnnoticed(t, b.dir)
		if got := b.open(p).Result; got != Disk {
			t.Errorf("somebody else is answered by %v, want disk", got)
		}
		if got := again(); got != Miss {
			t.Errorf("after %d more requests the client is answered by %v, want miss", after, got)
		}
	}
}

// TestWhoLeavesLeavesTheHashingToOthers: a client that goes while it waits for a
// place to hash a file does not have the others get it unhashed.
func TestWhoLeavesLeavesTheHashingToOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newReadyBench(t)
		_, p, pkg := b.put("a", testPart)
		b.wantGet(p, pkg.File, Miss)
		b.settle()
		b.files.Delivered(p, testClient)
		flipUnnoticed(t, b.dir)
		for range maxHashing {
			b.cache.repeats.places.take(t.Context())
		}
		results := make(chan Result, 2)
		open := func(ctx context.Context) {
			o, err := b.files.Open(ctx, p, Wanted{Client: testClient})
			if err != nil {
				t.Error(err)
				return
			}
			defer o.Close()
			results <- o.Result
		}
		ctx, leave := context.WithCancel(t.Context())
		go open(ctx)
		synctest.Wait()
		go open(t.Context()) // waits for the first
		synctest.Wait()
		leave()
		synctest.Wait()
		if len(results) != 1 {
			t.Fatalf("%d are answered before the file is hashed, want the one that left", len(results))
		}
		<-results
		b.cache.repeats.places.giveBack()
		if got := <-results; got != Miss {
			t.Errorf("the other is answered by %v, want miss", got)
		}
	})
}

// flipUnnoticed flips a bit of the one file there is, and changes no times.
func flipUnnoticed(t *testing.T, dir string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "objects", "*", "*"))
	if err != nil || len(files) != 1 {
		t.Fatalf("files in the disk tier: %q, %v", files, err)
	}
	before, err := os.Stat(files[0])
	if err != nil {
		t.Fatal(err)
	}
	flipFiles(t, dir)
	if err := os.Chtimes(files[0], before.ModTime(), before.ModTime()); err != nil {
		t.Fatal(err)
	}
}
