package integration

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stevedores-org/nix-cache/caddymodule/nix/nixtest"
)

const crowd = 500

// TestCrowdOnOneColdNAR: a NAR that 500 clients want at once is fetched once.
func TestCrowdOnOneColdNAR(t *testing.T) {
	t.Parallel()
	o := r2Origin(t)
	c := startCache(t, o)
	p := signedPackage("crowd", 2_000_000)
	o.lay(t, p)
	c.get(t, "/health")
	before := c.holdings(t)
	release := o.bucket.hold()
	defer release()
	streams := openCrowd(t, c, narPath(p), crowd)
	release()
	each(streams, func(s *stream) { s.wantRest(t, p.File) })
	o.bucket.wantRequests(t, narPath(p)[1:], "GET", "GET")
	c.wantNoGrowth(t, before, slack)
}

// openCrowd lets many clients ask for a file and get its first byte.
func openCrowd(tb testing.TB, c *cache, path string, clients int) []*stream {
	tb.Helper()
	streams := make([]*stream, clients)
	errs := make([]error, clients)
	var all sync.WaitGroup
	for i := range clients {
		all.Go(func() { streams[i], errs[i] = c.tryOpen(tb.Context(), path, 1) })
	}
	all.Wait()
	for _, s := range streams {
		if s != nil {
			tb.Cleanup(func() { s.Body.Close() })
		}
	}
	if err := errors.Join(errs...); err != nil {
		tb.Fatal(err)
	}
	return streams
}

func each[T any](all []T, do func(T)) {
	var running sync.WaitGroup
	for _, one := range all {
		running.Go(func() { do(one) })
	}
	running.Wait()
}

// TestCrowdOnColdNARInfos: so is each of many narinfos.
func TestCrowdOnColdNARInfos(t *testing.T) {
	t.Parallel()
	o := r2Origin(t)
	c := startCache(t, o)
	var packages []nixtest.Package
	var texts [][]byte
	for i := range 10 {
		p := signedPackage(fmt.Sprintf("crowd-%d", i), 100)
		o.put(t, narinfoPath(p)[1:], p.Text())
		packages, texts = append(packages, p), append(texts, p.Text())
	}
	c.get(t, "/health")
	before := c.holdings(t)
	var clients sync.WaitGroup
	for i := range crowd {
		clients.Go(func() {
			order := rand.New(rand.NewPCG(3, uint64(i))).Perm(len(packages))
			for _, j := range order {
				a, err := c.fetch(t.Context(), "GET", narinfoPath(packages[j]), texts[j])
				if err != nil || a.Status != http.StatusOK {
					t.Errorf("%s: status %d, %v", a.Request, a.Status, err)
				}
			}
		})
	}
	clients.Wait()
	if requests := o.bucket.take(); len(requests) != len(packages) {
		t.Errorf("%d requests to the bucket for %d narinfos", len(requests), len(packages))
	}
	c.http.CloseIdleConnections()
	c.wantNoGrowth(t, before, slack)
}

// TestSlowClients: who reads slowly keeps nobody waiting and gets it all.
func TestSlowClients(t *testing.T) {
	t.Parallel()
	o := r2Origin(t)
	c := startCache(t, o)
	p := signedPackage("slow", 30_000_000)
	o.lay(t, p)
	c.get(t, "/health")
	before := c.holdings(t)
	slow := openCrowd(t, c, narPath(p), 10)
	c.get(t, narPath(p)).wantBody(t, p.File) // while the slow ones follow the fill
	c.getUntil(t, narPath(p), diskHit)
	slow = append(slow, openCrowd(t, c, narPath(p), 10)...)
	c.get(t, narPath(p)).wantBody(t, p.File) // while more of them read from disk
	each(slow, func(s *stream) { s.wantRest(t, p.File) })
	const parts = 1 + 7 // the first MiB, and 4 MiB each of the rest
	o.bucket.wantRequests(t, narPath(p)[1:], slices.Repeat([]string{"GET"}, parts)...)
	c.http.CloseIdleConnections()
	c.wantNoGrowth(t, before, slack)
}

// TestClientsThatDontRead: who is passed a file through and doesn't read it holds
// nothing that others wait for, and gets the rest when it reads on. Not beside other
// tests, since it measures how long the others wait.
func TestClientsThatDontRead(t *testing.T) {
	large, small := signedPackage("unread", 12_000_000), signedPackage("others", 100_000)
	for name, tt := range map[string]struct {
		path  string
		setup []string
		asked []string // by a client that reads
	}{
		"a NAR without a disk":        {narPath(large), []string{"disk off"}, []string{"GET"}},
		"a NAR with a disk too small": {narPath(large), []string{"disk " + tempDir(t) + " 8MiB 0"}, []string{"GET", "GET"}},
		"a log":                       {"/log/" + strings.Repeat("0", 32) + "-unread.drv", nil, []string{"GET"}},
	} {
		t.Run(name, func(t *testing.T) {
			o := r2Origin(t)
			o.lay(t, small)
			o.put(t, tt.path[1:], large.File)
			c := startFastCache(t, o, tt.setup...)
			c.get(t, tt.path).wantBody(t, large.File)
			o.bucket.wantRequests(t, tt.path[1:], tt.asked...)

			const clients, reading = 64, 4
			stalled := openCrowd(t, c, tt.path, clients)
			for range 3 {
				begun := time.Now()
				c.get(t, tt.path, header("Range", "bytes=5000-2000000")).wantBody(t, large.File[5000:2000001])
				c.get(t, narPath(small)).wantBody(t, small.File)
				if took := time.Since(begun); took > time.Second {
					t.Errorf("a small part and a small NAR took %v beside %d clients that don't read", took, clients)
				}
			}
			o.bucket.take()
			each(stalled[:reading], func(s *stream) { s.wantRest(t, large.File) })
			if got := len(o.bucket.take()); got > 13*reading { // a MiB at a time at worst
				t.Errorf("%d requests to the bucket for %d slow clients", got, reading)
			}
		})
	}
}

// TestClientsThatLeave: a fill whose clients have all left goes on to its end,
// and what was sent by halves is nowhere.
func TestClientsThatLeave(t *testing.T) {
	t.Parallel()
	o := smallParts(t)
	c := startCache(t, o)
	fetched, pushed := signedPackage("leave", 8_000_000), signedPackage("leave-push", 8_000_000)
	o.lay(t, fetched)
	c.get(t, "/health")
	before := c.holdings(t)

	release := o.bucket.hold()
	defer release()
	each(openCrowd(t, c, narPath(fetched), 100), func(s *stream) { s.Body.Close() })
	release()
	c.getUntil(t, narPath(fetched), diskHit).wantBody(t, fetched.File)
	o.bucket.wantRequests(t, narPath(fetched)[1:], "GET", "GET", "GET")
	each(openCrowd(t, c, narPath(fetched), 100), func(s *stream) { s.Body.Close() })

	for _, sent := range []int{0, 1, 5_000_000, 6_000_000, len(pushed.File) - 1} {
		if a, err := c.try(t, "PUT", narPath(pushed), pushed.File, basic(uploadToken), brokenOff(sent)); err == nil && a.Status < 400 {
			t.Errorf("%s: status %d for %d bytes of %d", a.Request, a.Status, sent, len(pushed.File))
		}
	}
	c.get(t, narPath(pushed)).wantStatus(t, http.StatusNotFound)
	o.wantWhole(t, make(map[string]bool))
	c.http.CloseIdleConnections()
	c.wantNoGrowth(t, before, slack)
	c.upload(t, pushed)
}

// brokenOff ends a request's body in its middle, and with it the connection.
func brokenOff(sent int) requestOption {
	return func(r *http.Request) {
		gone := errors.New("the client has left")
		r.Body = io.NopCloser(io.MultiReader(io.LimitReader(r.Body, int64(sent)), errReader{gone}))
		r.GetBody = nil
	}
}

type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }
