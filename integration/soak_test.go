package integration

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stevedores-org/nix-cache/caddymodule/nix/nixtest"
)

const (
	soakDefault = time.Minute // SOAK in the environment says otherwise

	burstEvery  = 15 * time.Second
	burstLength = 3 * time.Second // more than some requests can ride out
	reloadEvery = 4 * time.Second

	// burstEcho is how long after a burst requests may still fail of it.
	burstEcho = 5 * time.Second

	// soakGrowth is how much the resident set may grow from the first half to
	// the second: the race detector's share of it is large, and unsteady.
	soakGrowth = 128 << 20
)

// soak is a mixed load, and what is known of it.
type soak struct {
	*cache
	t      *testing.T
	shared []nixtest.Package // at the origin throughout
	texts  [][]byte          // their narinfos

	done    atomic.Int64 // requests with the right answer
	failed  atomic.Int64 // requests that a burst excuses
	pushed  atomic.Int64
	reloads atomic.Int64

	mu struct {
		sync.Mutex
		bursts []time.Time // when they began
	}
}

// TestSoak: for a minute, or as long as SOAK says, each answer is the right one
// and Caddy's holdings don't grow.
func TestSoak(t *testing.T) {
	t.Parallel()
	length := soakLength(t)
	s := startSoak(t)
	for i := range s.shared {
		s.get(t, narPath(s.shared[i])).wantStatus(t, http.StatusOK)
		s.get(t, narinfoPath(s.shared[i])).wantStatus(t, http.StatusOK)
	}
	s.http.CloseIdleConnections()
	before := s.holdings(t)
	s.run(length)

	s.origin.bucket.setFault(nil)
	for i := range s.shared {
		s.eventuallyServes(t, s.shared[i])
	}
	s.origin.wantWhole(t, make(map[string]bool))
	s.http.CloseIdleConnections()
	s.wantNoGrowth(t, before, slack)
	t.Logf("%v: %d requests answered right, %d failed by %d bursts, %d packages pushed and deleted, %d reloads",
		length, s.done.Load(), s.failed.Load(), len(s.mu.bursts), s.pushed.Load(), s.reloads.Load())
}

func soakLength(t *testing.T) time.Duration {
	t.Helper()
	text := os.Getenv("SOAK")
	if text == "" {
		return soakDefault
	}
	length, err := time.ParseDuration(text)
	if err != nil {
		t.Fatalf("SOAK: %v", err)
	}
	return length
}

// startSoak starts a cache whose disk holds about half of what is asked of it.
func startSoak(t *testing.T) *soak {
	t.Helper()
	o := smallParts(t)
	s := &soak{t: t}
	for i, size := range []int{8_000_000, 6_000_000, 3_000_000, 3_000_000, 1_000_000, 1_000_000} {
		s.share(o, fmt.Sprintf("soak-large-%d", i), size)
	}
	for i := range 40 {
		s.share(o, fmt.Sprintf("soak-%d", i), 1000+i*5000)
	}
	running := startCaddy(t, site("http://localhost", s.directive(o, 0)))
	s.cache = &cache{caddy: running, origin: o, base: running.HTTP, http: running.client(t)}
	return s
}

func (s *soak) share(o *testOrigin, name string, size int) {
	p := signedPackage(name, size)
	o.lay(s.t, p)
	s.shared, s.texts = append(s.shared, p), append(s.texts, p.Text())
}

// directive returns the config of a reload, with limits of its own.
func (s *soak) directive(o *testOrigin, reload int64) string {
	return cacheDirective(o,
		"token deleter "+deleteToken+" upload delete",
		"negative_ttl 1s",
		fmt.Sprintf("memory %dKiB", 1024+reload%3*256),
		fmt.Sprintf("disk {env.XDG_DATA_HOME}/soak %dMiB 0", 18+reload%3*2))
}

// run keeps the load up for so long.
func (s *soak) run(length time.Duration) {
	ctx, cancel := context.WithTimeout(s.t.Context(), length)
	defer cancel()
	var workers sync.WaitGroup
	work := func(n int, step func(context.Context, *rand.Rand)) {
		for range n {
			random := rand.New(rand.NewPCG(4, rand.Uint64()))
			workers.Go(func() {
				for ctx.Err() == nil && !s.t.Failed() {
					step(ctx, random)
				}
			})
		}
	}
	work(3, s.readOne)
	work(1, s.readAbsent)
	work(2, s.publish)
	work(1, s.leave)
	workers.Go(func() { every(ctx, reloadEvery, s.reloadOther) })
	workers.Go(func() { every(ctx, burstEvery, s.burst) })
	resident := s.watchResident(ctx, length)
	workers.Wait()
	if early, late := <-resident, <-resident; late > early+soakGrowth {
		s.t.Errorf("resident memory has grown from %d MiB to %d", early>>20, late>>20)
	}
}

// every does something at each tick until the context ends.
func every(ctx context.Context, interval time.Duration, do func(context.Context)) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			do(ctx)
		case <-ctx.Done():
			return
		}
	}
}

// watchResident yields the most memory that Caddy held in the first half, and
// then in the second.
func (s *soak) watchResident(ctx context.Context, length time.Duration) <-chan int64 {
	peaks := make(chan int64, 2)
	begun := time.Now()
	go func() {
		var early, late int64
		every(ctx, time.Second, func(context.Context) {
			if now := s.residentNow(s.t); time.Since(begun) < length/2 {
				early = max(early, now)
			} else {
				late = max(late, now)
			}
		})
		peaks <- early
		peaks <- late
	}()
	return peaks
}

// readOne reads a shared file in one of the ways there are.
func (s *soak) readOne(ctx context.Context, random *rand.Rand) {
	i := random.IntN(len(s.shared))
	path, want := narinfoPath(s.shared[i]), s.texts[i]
	if random.IntN(3) > 0 {
		path, want = narPath(s.shared[i]), s.shared[i].File
	}
	from := random.IntN(len(want))
	to := from + random.IntN(len(want)-from)
	switch random.IntN(5) {
	case 0:
		s.expect(ctx, http.StatusOK, "HEAD", path, nil)
	case 1:
		s.expect(ctx, http.StatusPartialContent, "GET", path, want[from:to+1], header("Range", fmt.Sprintf("bytes=%d-%d", from, to)))
	case 2:
		s.expect(ctx, http.StatusPartialContent, "GET", path, want[from:], header("Range", fmt.Sprintf("bytes=%d-", from)))
	default:
		s.expect(ctx, http.StatusOK, "GET", path, want)
	}
}

// readAbsent asks for one of many files that are nowhere.
func (s *soak) readAbsent(ctx context.Context, random *rand.Rand) {
	method := []string{"GET", "HEAD"}[random.IntN(2)]
	name := fmt.Sprintf("soak-absent-%d", random.IntN(1000))
	s.expect(ctx, http.StatusNotFound, method, "/"+nixtest.StorePath(name).Hash()+".narinfo", nil)
}

// leave begins to read a shared NAR and goes.
func (s *soak) leave(ctx context.Context, random *rand.Rand) {
	p := s.shared[random.IntN(len(s.shared))]
	if opened, err := s.tryOpen(ctx, narPath(p), random.IntN(1000)); err == nil {
		opened.Body.Close()
	}
}

// publish pushes a package that nobody else knows, reads it back, deletes it and
// finds it gone. It gives up where a burst came between.
func (s *soak) publish(ctx context.Context, random *rand.Rand) {
	size := []int{500, 100_000, 1_500_000, 6_000_000}[random.IntN(4)]
	p := signedPackage(fmt.Sprintf("soak-push-%x", random.Uint64()), size)
	files := []struct {
		path string
		body []byte
	}{{narPath(p), p.File}, {narinfoPath(p), p.Text()}}
	for _, f := range files {
		if !s.expect(ctx, http.StatusNotFound, "GET", f.path, nil) ||
			!s.expect(ctx, http.StatusCreated, "PUT", f.path, nil, sending(f.body), basic(uploadToken)) ||
			!s.expect(ctx, http.StatusOK, "GET", f.path, f.body) ||
			!s.expect(ctx, http.StatusOK, "HEAD", f.path, nil) {
			return
		}
	}
	for _, f := range slices.Backward(files) {
		if !s.expect(ctx, http.StatusOK, "DELETE", f.path, []byte("OK\n"), basic(deleteToken), repeatable) ||
			!s.expect(ctx, http.StatusNotFound, "GET", f.path, nil) ||
			!s.expect(ctx, http.StatusNotFound, "HEAD", f.path, nil) {
			return
		}
	}
	s.pushed.Add(1)
}

// repeatable lets the client send a request again on another connection, where
// a reload has closed the one it took: net/http sends no header without values.
func repeatable(r *http.Request) { r.Header["Idempotency-Key"] = nil }

// expect sends a request and checks its answer. It reports whether that was the
// right one; a wrong one fails the test unless a burst of the origin excuses it.
func (s *soak) expect(ctx context.Context, status int, method, path string, want []byte, options ...requestOption) bool {
	begun := time.Now()
	a, err := s.fetch(context.WithoutCancel(ctx), method, path, want, options...)
	switch {
	case err == nil && a.Status == status:
		s.done.Add(1)
		return true
	case errors.Is(err, errWrongBytes), err == nil && !isOutage(a.Status), !s.excused(begun):
		s.t.Errorf("%s: status %d, %v, want %d; Cache-Status %q; %.100q", a.Request, a.Status, err, status, a.Header.Get("Cache-Status"), a.Body)
	default:
		s.failed.Add(1)
	}
	return false
}

func isOutage(status int) bool {
	return status == http.StatusBadGateway || status == http.StatusServiceUnavailable || status == http.StatusGatewayTimeout
}

// sending gives a request a body that can be sent again.
func sending(body []byte) requestOption {
	return func(r *http.Request) {
		setBody(r, body)
		repeatable(r)
	}
}

// reloadOther gives Caddy other limits.
func (s *soak) reloadOther(context.Context) {
	s.reload(s.t, site("http://localhost", s.directive(s.origin, s.reloads.Add(1))))
}

// burst lets the origin fail for a moment in one of its ways.
func (s *soak) burst(ctx context.Context) {
	kinds := []bucketFault{refuse, cutAt(100_000)}
	for _, b := range bursts {
		kinds = append(kinds, s3Error(b.status, b.code))
	}
	s.mu.Lock()
	s.mu.bursts = append(s.mu.bursts, time.Now())
	kind := kinds[len(s.mu.bursts)%len(kinds)]
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, burstLength)
	defer cancel()
	s.origin.bucket.setFault(kind)
	<-ctx.Done()
	s.origin.bucket.setFault(nil)
}

// excused reports whether a burst may be why a request failed.
func (s *soak) excused(begun time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, burst := range s.mu.bursts {
		if begun.Before(burst.Add(burstLength + burstEcho)) {
			return true
		}
	}
	return false
}
