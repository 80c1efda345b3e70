package integration

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
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
	upload, goOn := c.uploadHalf(t, pushed)

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

// impatient starts a cache that waits for two seconds when it stops.
func impatient(tb testing.TB, o *testOrigin) *cache {
	tb.Helper()
	options := strings.Replace(globalOptions, "grace_period 10s", "grace_period 2s", 1)
	sites := site("http://localhost", cacheDirective(o)) + site("https://localhost", cacheDirective(o))
	c := caddySetup{Caddyfile: options + sites}.start(tb)
	c.logged(tb, "certificate obtained successfully")
	return &cache{caddy: c, origin: o, base: c.HTTP, http: c.client(tb)}
}

// endsSoon ends Caddy by SIGTERM, and checks that it is not held up for longer than
// its grace period and a few seconds.
func (c *cache) endsSoon(tb testing.TB) {
	tb.Helper()
	begun := time.Now()
	if err := syscall.Kill(c.cmd.Process.Pid, syscall.SIGTERM); err != nil {
		tb.Fatal(err)
	}
	await(tb, "Caddy's end", c.ended)
	took := time.Since(begun)
	if tb.Logf("Caddy ended after %v", took); took > 7*time.Second {
		tb.Error("it was held up")
	}
	if code := c.cmd.ProcessState.ExitCode(); code != 0 {
		tb.Errorf("Caddy ended with %d", code)
	}
	if _, err := os.Stat(c.tierDir() + "/clean"); err != nil {
		tb.Errorf("the tier was not closed in order: %v", err)
	}
}

// TestGracePeriodCutsUploads: one that stalls or trickles holds the process up for
// the grace period and no longer, and nothing is left of it.
func TestGracePeriodCutsUploads(t *testing.T) {
	t.Parallel()
	for name, rest := range map[string]func(testing.TB, *cache) io.Reader{"stalled": stalling, "trickling": trickling, "stalled-http2": stalling} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := smallParts(t)
			c := impatient(t, o)
			if name == "stalled-http2" {
				c.base = c.HTTPS
			}
			warm, pushed := signedPackage("cut-warm-"+name, 100_000), signedPackage("cut-pushed-"+name, 12_000_000)
			o.lay(t, warm)
			c.getUntil(t, narPath(warm), diskHit)
			half, tail := newTripwire(6_500_000), rest(t, c)
			upload := make(chan answer, 1)
			go func() {
				a, _ := c.try(t, "PUT", narPath(pushed), pushed.File, basic(uploadToken), half.body(pushed.File[:7_000_000]), func(r *http.Request) {
					r.Body = io.NopCloser(io.MultiReader(r.Body, tail))
				})
				upload <- a
			}()
			await(t, "half of an upload", half.tripped)
			c.endsSoon(t)
			if a := <-upload; a.Status != 0 && a.Status != http.StatusServiceUnavailable {
				t.Errorf("the upload was answered with %d %q", a.Status, a.Body)
			}
			o.bucket.wantNoUploads(t)

			c.base = c.HTTP
			c.run(t)
			wantNoFiles(t, c.tierDir()+"/staging")
			c.get(t, narPath(warm)).wantHeader(t, "Cache-Status", diskHit)
			c.get(t, narPath(pushed)).wantStatus(t, http.StatusNotFound)
			c.upload(t, pushed)
		})
	}
}

// stalling has no bytes before Caddy ends.
func stalling(_ testing.TB, c *cache) io.Reader { return ticks{ended: c.ended} }

// trickling has a byte ten times a second.
func trickling(tb testing.TB, c *cache) io.Reader {
	ticker := time.NewTicker(100 * time.Millisecond)
	tb.Cleanup(ticker.Stop)
	return ticks{c.ended, ticker.C}
}

type ticks struct {
	ended <-chan struct{}
	next  <-chan time.Time
}

func (b ticks) Read(p []byte) (int, error) {
	select {
	case <-b.next:
		return 1, nil
	case <-b.ended:
		return 0, io.ErrUnexpectedEOF
	}
}

// TestGracePeriodCutsFills: a reader of a NAR that is still on its way doesn't hold
// the process up, and notices that it has not got all.
func TestGracePeriodCutsFills(t *testing.T) {
	t.Parallel()
	o := smallParts(t)
	c := impatient(t, o)
	cold := signedPackage("cut-cold", 12_000_000)
	o.lay(t, cold)
	release := o.bucket.hold()
	defer release()
	s := c.open(t, narPath(cold), 1000)
	c.endsSoon(t)
	if n, err := s.rest(); err == nil || n >= int64(len(cold.File)) {
		t.Errorf("a reader got %d bytes of %d, %v", n, len(cold.File), err)
	}
	release()
	c.run(t)
	wantNoFiles(t, c.tierDir()+"/staging")
	c.get(t, narPath(cold)).wantBody(t, cold.File)
}

// uploadHalf sends half of a NAR of 12 MB, and the rest once goOn is closed.
func (c *cache) uploadHalf(tb testing.TB, p nixtest.Package) (uploaded <-chan answer, goOn chan struct{}) {
	tb.Helper()
	half, goOn := newTripwire(6_000_000), make(chan struct{})
	upload := make(chan answer, 1)
	go func() {
		a, err := c.try(tb, "PUT", narPath(p), p.File, basic(uploadToken), half.body(p.File), pauseAt(6_500_000, goOn))
		if err != nil {
			tb.Errorf("%s: %v", a.Request, err)
		}
		upload <- a
	}()
	await(tb, "half of an upload", half.tripped)
	return upload, goOn
}

// TestReloadThereAndBack: a config that wants a directory back that an earlier one
// had gets it at once, whoever still uses it.
func TestReloadThereAndBack(t *testing.T) {
	t.Parallel()
	o := smallParts(t)
	c := startCache(t, o)
	warm, cold, pushed := signedPackage("back-warm", 100_000), signedPackage("back-cold", 12_000_000), signedPackage("back-pushed", 12_000_000)
	o.lay(t, warm)
	o.lay(t, cold)
	c.getUntil(t, narPath(warm), diskHit)
	release := o.bucket.hold()
	defer release()
	s := c.open(t, narPath(cold), 1000)
	upload, goOn := c.uploadHalf(t, pushed)

	for _, to := range []struct{ disk, priority string }{{c.dir + "/elsewhere", "7"}, {c.tierDir(), "8"}, {c.dir + "/elsewhere", "9"}, {c.tierDir(), "10"}} {
		c.reload(t, site("http://localhost", cacheDirective(o, "disk "+to.disk+" 1GiB", "priority "+to.priority)))
		c.awaitPriority(t, to.priority)
	}
	c.get(t, narPath(warm)).wantHeader(t, "Cache-Status", diskHit)
	other := signedPackage("back-other", 100_000)
	o.lay(t, other)
	c.get(t, narPath(other)).wantHeader(t, "Cache-Status", stored)
	release()
	s.wantRest(t, cold.File)
	close(goOn)
	(<-upload).wantStatus(t, http.StatusCreated)
	c.get(t, narPath(pushed)).wantHeader(t, "Cache-Status", diskHit)
	if lines, _ := c.log.snapshot(); slices.ContainsFunc(lines, func(l string) bool { return strings.Contains(l, "without the disk tier") }) {
		t.Error("the log says that there was no disk tier")
	}
}
