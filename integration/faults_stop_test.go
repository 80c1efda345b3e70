package integration

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stevedores-org/nix-cache/caddymodule/nix/nixtest"
)

// TestSIGTERM: responses that are under way end whole, from a fill and from
// disk, an upload too, and then Caddy ends.
func TestSIGTERM(t *testing.T) {
	t.Parallel()
	o := smallParts(t)
	c := startCache(t, o)
	cold, warm, pushed := signedPackage("term-cold", 12_000_000), signedPackage("term-warm", 12_000_000), signedPackage("term-pushed", 12_000_000)
	o.lay(t, cold)
	o.lay(t, warm)
	c.getUntil(t, narPath(warm), diskHit)
	release := o.bucket.hold()
	defer release()
	streams := append(openCrowd(t, c, narPath(cold), 5), openCrowd(t, c, narPath(warm), 5)...)
	half, goOn := newTripwire(6_000_000), make(chan struct{})
	upload := make(chan answer, 1)
	go func() {
		a, err := c.try(t, "PUT", narPath(pushed), pushed.File, basic(uploadToken), half.body(pushed.File), pauseAt(6_500_000, goOn))
		if err != nil {
			t.Errorf("%s: %v", a.Request, err)
		}
		upload <- a
	}()
	await(t, "half of an upload", half.tripped)

	if err := syscall.Kill(c.cmd.Process.Pid, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	c.logged(t, "grace period initiated")
	close(goOn)
	release()
	each(streams, func(s *stream) {
		want := cold.File
		if s.what == "GET "+narPath(warm) {
			want = warm.File
		}
		s.wantRest(t, want)
	})
	(<-upload).wantStatus(t, http.StatusCreated)
	await(t, "Caddy's end", c.ended)
	if code := c.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("Caddy ended with %d", code)
	}
	o.wantWhole(t, make(map[string]bool))

	c.run(t)
	wantNoFiles(t, c.tierDir()+"/staging")
	c.get(t, narPath(pushed)).wantBody(t, pushed.File)
	c.get(t, narPath(cold)).wantBody(t, cold.File)
}

// pauseAt makes a body wait in its middle.
func pauseAt(at int, goOn <-chan struct{}) requestOption {
	return func(r *http.Request) {
		r.Body = &pausingBody{ReadCloser: r.Body, left: at, goOn: goOn}
	}
}

type pausingBody struct {
	io.ReadCloser
	left int
	goOn <-chan struct{}
}

func (b *pausingBody) Read(p []byte) (int, error) {
	if b.left <= 0 {
		<-b.goOn
	}
	n, err := b.ReadCloser.Read(p)
	b.left -= n
	return n, err
}

// TestReloadEverySecond: no request fails, nothing is fetched twice, and new
// limits hold.
func TestReloadEverySecond(t *testing.T) {
	t.Parallel()
	const reloads = 8
	o := smallParts(t)
	c := startCache(t, o)
	warm := signedPackage("every-second-warm", 3_000_000)
	o.lay(t, warm)
	cold := make([]nixtest.Package, 150)
	for i := range cold {
		cold[i] = signedPackage(fmt.Sprintf("every-second-%d", i), 1_200_000)
		o.lay(t, cold[i])
	}
	warmUp(t, c, warm)
	o.bucket.take()

	var stopped atomic.Bool
	var clients sync.WaitGroup
	var served atomic.Int64
	load := func(next func(i int) (method, path string, want []byte)) {
		clients.Go(func() {
			for i := 0; !stopped.Load(); i++ {
				method, path, want := next(i)
				if path == "" {
					return
				}
				a, err := c.fetch(t.Context(), method, path, want)
				if err != nil || a.Status != http.StatusOK {
					t.Errorf("%s: status %d, %v; %s", a.Request, a.Status, err, a.Header.Get("Cache-Status"))
				}
				served.Add(1)
			}
		})
	}
	for range 2 {
		load(func(int) (string, string, []byte) { return "GET", narPath(warm), warm.File })
		load(func(int) (string, string, []byte) { return "GET", narinfoPath(warm), warm.Text() })
		load(func(int) (string, string, []byte) { return "HEAD", narPath(warm), nil })
	}
	started := make([]atomic.Bool, len(cold))
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for range 2 { // both ask for the same at about the same time
		load(func(i int) (string, string, []byte) {
			if i == len(cold) {
				return "", "", nil
			}
			<-tick.C
			started[i].Store(true)
			return "GET", narPath(cold[i]), cold[i].File
		})
	}
	reloadEverySecond(t, c, reloads)
	stopped.Store(true)
	clients.Wait()
	wantFetchedOnce(t, o.bucket, cold, started)
	t.Logf("%d reloads under %d requests", reloads, served.Load())
}

func reloadEverySecond(t *testing.T, c *cache, reloads int) {
	t.Helper()
	second := time.NewTicker(time.Second)
	defer second.Stop()
	for i := range reloads {
		<-second.C
		memory, disk := int64(64+i)<<20, int64(2+i)<<30
		c.reload(t, site("http://localhost", cacheDirective(c.origin,
			fmt.Sprintf("memory %dMiB", memory>>20),
			fmt.Sprintf("disk %s %dGiB", c.tierDir(), disk>>30))))
		c.wantMetric(t, "tier_limit_bytes", `cache="nix-cache",tier="memory"`, float64(memory))
		c.wantMetric(t, "tier_limit_bytes", `cache="nix-cache",tier="disk"`, float64(disk))
	}
}

// wantFetchedOnce checks that each NAR that was asked for took its two range
// reads and no more.
func wantFetchedOnce(tb testing.TB, b *r2Bucket, packages []nixtest.Package, started []atomic.Bool) {
	tb.Helper()
	requests := make(map[string]int)
	for _, r := range b.take() {
		requests[r.Path]++
	}
	fetched := 0
	for i, p := range packages {
		if started[i].Load() {
			fetched++
			if n := requests[narPath(p)[1:]]; n != 2 {
				tb.Errorf("%d requests to the bucket for %s, want 2", n, narPath(p))
			}
		}
	}
	if fetched < 10 {
		tb.Errorf("only %d NARs were fetched: too little for a test", fetched)
	}
}

// TestRemovedCacheCloses: a cache that a reload has removed gives its directory
// up when its last reader is done, and not before.
func TestRemovedCacheCloses(t *testing.T) {
	t.Parallel()
	o := smallParts(t)
	c := startCache(t, o)
	p := signedPackage("removed", 8_000_000)
	o.lay(t, p)
	release := o.bucket.hold()
	defer release()
	s := c.open(t, narPath(p), 1000)
	if isFree(t, c.tierDir()) {
		t.Fatal("the tier's directory is not locked")
	}
	c.reload(t, site("http://localhost", "respond gone"))
	if body := c.get(t, "/").Body; string(body) != "gone" {
		t.Fatalf("the reload had no effect: %q", body)
	}
	if isFree(t, c.tierDir()) {
		t.Error("the tier's directory is given up under a reader")
	}
	release()
	s.wantRest(t, p.File)
	eventually(t, "the tier's directory", func() error {
		if !isFree(t, c.tierDir()) {
			return fmt.Errorf("still locked")
		}
		return nil
	})

	c.reload(t, site("http://localhost", cacheDirective(o)))
	c.getUntil(t, narPath(p), diskHit).wantBody(t, p.File)
}

// isFree reports whether nobody holds a tier's directory.
func isFree(tb testing.TB, tier string) bool {
	tb.Helper()
	f, err := os.Open(tier + "/lock")
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	return unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB) == nil
}
