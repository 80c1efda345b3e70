package integration

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stevedores-org/nix-cache/caddymodule/nix/nixtest"
)

// another returns the cache as seen by another client: one of another address.
func (c *cache) another(tb testing.TB) *cache {
	tb.Helper()
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}
	transport := &http.Transport{DialContext: dialer.DialContext}
	tb.Cleanup(transport.CloseIdleConnections)
	other := *c
	other.http = &http.Client{Transport: transport}
	return &other
}

// startQuietCache is startFastCache without an access log, which in a flood is what
// costs most.
func startQuietCache(tb testing.TB, o *testOrigin, more ...string) *cache {
	tb.Helper()
	s := caddySetup{Command: []string{requireEnv(tb, "CADDY")}}
	s.Caddyfile = globalOptions + "http://localhost {\n\t" + cacheDirective(o, more...) + "\n}\n"
	c := s.start(tb)
	return &cache{caddy: c, origin: o, base: c.HTTP, http: c.client(tb)}
}

// wantSoon asks for an odd number of narinfos that are cold, one after the other.
// Most have to come within a second: single ones may meet a machine that is busy.
func (c *cache) wantSoon(tb testing.TB, name string, n int) {
	tb.Helper()
	var took []time.Duration
	for i := range n {
		p := signedPackage(fmt.Sprint(name, "-", i), 100)
		c.origin.put(tb, narinfoPath(p)[1:], p.Text())
		begun := time.Now()
		a := c.get(tb, narinfoPath(p))
		took = append(took, time.Since(begun))
		a.wantStatus(tb, http.StatusOK)
		a.wantBody(tb, p.Text())
	}
	slices.Sort(took)
	tb.Logf("cold narinfos took %v", took)
	if took[n/2] > time.Second {
		tb.Errorf("cold narinfos took %v, want a second at most", took)
	}
}

// far makes answers take a while, as those of a bucket far away.
func far(delay time.Duration) bucketFault {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		select {
		case <-time.After(delay):
			next.ServeHTTP(w, r)
		case <-r.Context().Done():
		}
	}
}

// TestReadersThatLeaveAtOnce: whoever asks and goes away, again and again, takes
// little memory and keeps nobody waiting.
func TestReadersThatLeaveAtOnce(t *testing.T) {
	o := r2Origin(t)
	c := startQuietCache(t, o)
	c.get(t, "/health").wantStatus(t, http.StatusOK)
	o.bucket.setFault(far(100 * time.Millisecond))
	before := c.holdings(t)
	c.resetResidentPeak(t)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var flood sync.WaitGroup
	for range 60 {
		flood.Go(func() {
			for ctx.Err() == nil {
				c.askAndLeave(ctx)
			}
		})
	}
	c.another(t).wantSoon(t, "flood", 15)
	stop()
	flood.Wait()
	peak := c.residentPeak(t)
	t.Logf("Caddy had %d MiB of memory at most", peak>>20)
	if peak > 300<<20 {
		t.Error("that is more than 300 MiB")
	}
	c.wantNoGrowth(t, before, slack)
}

// askAndLeave asks for a narinfo that nobody has and closes 3 ms later.
func (c *cache) askAndLeave(ctx context.Context) {
	conn, err := net.Dial("tcp4", strings.TrimPrefix(c.base, "http://"))
	if err != nil {
		return
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET /%s.narinfo HTTP/1.1\r\nHost: localhost\r\n\r\n", randomHash())
	select {
	case <-time.After(3 * time.Millisecond):
	case <-ctx.Done():
	}
}

// randomHash returns 32 digits of a store path.
func randomHash() string {
	const digits = "0123456789abcdfghijklmnpqrsvwxyz"
	hash := make([]byte, 32)
	for i := range hash {
		hash[i] = digits[rand.N(len(digits))]
	}
	return string(hash)
}

// TestQueueIsFull: who asks for more than can wait is told at once, and others
// are not.
func TestQueueIsFull(t *testing.T) {
	o := r2Origin(t)
	c := startQuietCache(t, o, "name busy")
	held := make(chan struct{})
	release := sync.OnceFunc(func() { close(held) })
	defer release()
	o.bucket.setFault(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		<-held
		next.ServeHTTP(w, r)
	})
	const places, room, more = 40, 2048, 50 // of those that NARs have
	answers := make(chan answer, places+room+more)
	var crowd sync.WaitGroup
	for range cap(answers) {
		crowd.Go(func() {
			if a, err := c.fetch(t.Context(), "GET", "/nar/"+strings.Repeat("0", 20)+randomHash()+".nar", nil); err == nil {
				answers <- a
			}
		})
	}
	for range more {
		a := <-answers
		a.wantRefusal(t, http.StatusServiceUnavailable, "busy")
		a.wantHeader(t, "Retry-After", "5")
	}
	if lines, _ := c.log.snapshot(); countLines(lines, `"level":"error"`) > 1 {
		t.Errorf("%d errors were logged of %d refusals", countLines(lines, `"level":"error"`), more)
	}
	p := signedPackage("queue-is-full", 100)
	o.lay(t, p)
	var other sync.WaitGroup
	other.Go(func() { c.another(t).get(t, narPath(p)).wantBody(t, p.File) })
	(<-answers).wantStatus(t, http.StatusServiceUnavailable) // one of the crowd makes room
	release()
	other.Wait()
	crowd.Wait()
	close(answers)
	for a := range answers {
		a.wantStatus(t, http.StatusNotFound)
	}
}

func countLines(lines []string, text string) (n int) {
	for _, line := range lines {
		if strings.Contains(line, text) {
			n++
		}
	}
	return n
}

// slowLink is connections of so many bytes a second each, until it is widened.
type slowLink struct {
	rate int
	wide chan struct{}
}

func (l *slowLink) fault(w http.ResponseWriter, r *http.Request, next http.Handler) {
	next.ServeHTTP(&slowWriter{w, r.Context(), l}, r)
}

type slowWriter struct {
	http.ResponseWriter
	ctx  context.Context
	link *slowLink
}

func (w *slowWriter) Write(p []byte) (int, error) {
	written := 0
	for len(p) > 0 {
		n, err := w.ResponseWriter.Write(p[:min(len(p), 8<<10)])
		written += n
		if p = p[n:]; err != nil {
			return written, err
		}
		http.NewResponseController(w.ResponseWriter).Flush()
		select {
		case <-time.After(time.Duration(n) * time.Second / time.Duration(w.link.rate)):
		case <-w.link.wide:
		case <-w.ctx.Done():
			return written, errors.New("the cache has gone")
		}
	}
	return written, nil
}

func (w *slowWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// TestColdNARsLeaveNARInfosAlone: 250 of them, by two clients with 125 requests
// each, over a slow link. A narinfo comes at once, for who fetches them too, and
// they all arrive.
func TestColdNARsLeaveNARInfosAlone(t *testing.T) {
	o := smallParts(t)
	c := startFastCache(t, o)
	link := &slowLink{rate: 100_000, wide: make(chan struct{})}
	o.bucket.setFault(link.fault)
	const nars = 250
	sent := newTripwire(8 << 20)
	clients := []*cache{c, c.another(t)}
	var crowd sync.WaitGroup
	for i := range nars {
		p := signedPackage(fmt.Sprint("crowd-of-nars-", i), 1_500_000)
		o.lay(t, p)
		crowd.Go(func() { clients[i%2].wantNAR(t, p, sent) })
	}
	await(t, "a part of the NARs", sent.tripped)
	c.wantSoon(t, "beside-nars", 3)
	c.another(t).wantSoon(t, "beside-nars-of-another", 3)
	close(link.wide)
	crowd.Wait()
}

// wantNAR reads a NAR, past the wire.
func (c *cache) wantNAR(tb testing.TB, p nixtest.Package, wire *tripwire) {
	resp, err := c.http.Get(c.base + narPath(p))
	if err != nil {
		tb.Error(err)
		return
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(&tripReader{resp.Body, wire})
	if err != nil || resp.StatusCode != http.StatusOK || len(body) != len(p.File) {
		tb.Errorf("%s: status %d and %d bytes of %d, %v", narPath(p), resp.StatusCode, len(body), len(p.File), err)
	}
}
