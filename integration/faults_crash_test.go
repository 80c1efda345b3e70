package integration

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"

	"github.com/stevedores-org/nix-cache/caddymodule/nix/nixtest"
)

// How often Caddy is killed, each time when some number of bytes has passed.
const (
	fillCrashes   = 15
	uploadCrashes = 8 // for each origin
)

// smallParts makes fills and uploads of a few MB consist of several parts.
func smallParts(tb testing.TB) *testOrigin {
	tb.Helper()
	b := startBucket(tb)
	return &testOrigin{bucket: b, caddyfile: fmt.Sprintf(`origin r2 {
		bucket %s
		endpoint %s
		access_key_id %s
		secret_access_key %s
		part_size 5MiB
	}`, bucketName, b.endpoint, b.accessKey, b.secretKey)}
}

// crashPackages are what is under way when Caddy is killed: one of several
// parts, one of one part, and one that fits a packet.
func crashPackages(round int) []nixtest.Package {
	var all []nixtest.Package
	for _, size := range []int{7_000_000, 400_000, 500} {
		all = append(all, signedPackage(fmt.Sprintf("crash-%d-%d", round, size), size))
	}
	return all
}

func totalSize(packages []nixtest.Package) (total int64) {
	for _, p := range packages {
		total += int64(len(p.File) + len(p.Text()))
	}
	return total
}

// TestKilledDuringFills: what a tier has after a crash is whole.
func TestKilledDuringFills(t *testing.T) {
	t.Parallel()
	o := smallParts(t)
	c := startCache(t, o)
	random := rand.New(rand.NewPCG(1, 1))
	kept := 0
	for round := range fillCrashes {
		packages := crashPackages(round)
		for _, p := range packages {
			o.lay(t, p)
		}
		wire := newTripwire(random.Int64N(totalSize(packages)))
		o.bucket.setFault(wire.fault)
		killDuring(t, c, wire, getAll(t, c, packages))
		o.bucket.setFault(nil)
		c.run(t)
		wantNoFiles(t, c.tierDir()+"/staging")
		kept += wantServed(t, c, packages)
	}
	if kept == 0 || kept == fillCrashes*6 {
		t.Errorf("%d of %d files survived the crashes: they came at no interesting moment", kept, fillCrashes*6)
	}
	t.Logf("%d crashes; %d of %d files were in the tier afterwards", fillCrashes, kept, fillCrashes*6)
}

// killDuring lets clients run, kills Caddy at the tripwire, or when they are
// done, and waits for them.
func killDuring(tb testing.TB, c *cache, wire *tripwire, clients *sync.WaitGroup) {
	tb.Helper()
	done := make(chan struct{})
	go func() {
		clients.Wait()
		close(done)
	}()
	select {
	case <-wire.tripped:
	case <-done:
	}
	c.kill(tb)
	await(tb, "the clients of a killed Caddy", done)
}

// getAll begins to download packages.
func getAll(tb testing.TB, c *cache, packages []nixtest.Package) *sync.WaitGroup {
	clients := new(sync.WaitGroup)
	for _, p := range packages {
		for path, want := range map[string][]byte{narPath(p): p.File, narinfoPath(p): p.Text()} {
			clients.Go(func() {
				a, err := c.try(tb, "GET", path, nil)
				a.wantWholeOrBroken(tb, err, want)
			})
		}
	}
	return clients
}

// wantServed checks that packages are served right, twice, and returns how
// many of their files the tier had.
func wantServed(tb testing.TB, c *cache, packages []nixtest.Package) (kept int) {
	tb.Helper()
	for _, p := range packages {
		for path, want := range map[string][]byte{narPath(p): p.File, narinfoPath(p): p.Text()} {
			a := c.get(tb, path)
			if a.Header.Get("Cache-Status") == diskHit {
				kept++
			}
			for _, a := range []answer{a, c.get(tb, path)} {
				a.wantStatus(tb, http.StatusOK)
				a.wantBody(tb, want)
			}
		}
	}
	return kept
}

// TestKilledDuringUploads: an origin never has a part of an upload, and the
// same push succeeds later.
func TestKilledDuringUploads(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(testing.TB) *testOrigin{"dir": dirOrigin, "r2": smallParts} {
		t.Run("origin="+name, func(t *testing.T) {
			t.Parallel()
			o := start(t)
			c := startCache(t, o)
			known := make(map[string]bool)
			random := rand.New(rand.NewPCG(2, 2))
			for round := range uploadCrashes {
				packages := crashPackages(round)
				wire := newTripwire(random.Int64N(totalSize(packages)) + 1)
				killDuring(t, c, wire, pushAll(t, c, packages, wire))
				o.wantWhole(t, known)
				c.run(t)
				wantNoFiles(t, c.tierDir()+"/staging")
				for _, p := range packages {
					wantWholeOrAbsent(t, c, p)
					repeatPush(t, c, p)
				}
				wantNoFiles(t, o.dir+"/.staging")
			}
			o.wantWhole(t, known)
		})
	}
}

// pushAll begins to upload packages: each its NAR, then its narinfo.
func pushAll(tb testing.TB, c *cache, packages []nixtest.Package, wire *tripwire) *sync.WaitGroup {
	clients := new(sync.WaitGroup)
	for _, p := range packages {
		clients.Go(func() {
			if _, err := c.try(tb, "PUT", narPath(p), p.File, basic(uploadToken), wire.body(p.File)); err == nil {
				c.try(tb, "PUT", narinfoPath(p), p.Text(), basic(uploadToken), wire.body(p.Text()))
			}
		})
	}
	return clients
}

// wantWholeOrAbsent checks what is served of an upload of which nobody knows how
// far it came.
func wantWholeOrAbsent(tb testing.TB, c *cache, p nixtest.Package) {
	tb.Helper()
	for path, want := range map[string][]byte{narPath(p): p.File, narinfoPath(p): p.Text()} {
		if a := c.get(tb, path); a.Status != http.StatusNotFound {
			a.wantStatus(tb, http.StatusOK)
			a.wantBody(tb, want)
		}
	}
}

// repeatPush uploads a package of which there may be some already.
func repeatPush(tb testing.TB, c *cache, p nixtest.Package) {
	tb.Helper()
	for _, file := range []struct {
		path string
		body []byte
	}{{narPath(p), p.File}, {narinfoPath(p), p.Text()}} {
		a := c.put(tb, file.path, file.body)
		if a.Status != http.StatusCreated && a.Status != http.StatusOK {
			a.wantStatus(tb, http.StatusCreated)
		}
		c.get(tb, file.path).wantBody(tb, file.body)
	}
}
