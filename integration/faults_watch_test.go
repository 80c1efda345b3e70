package integration

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/stevedores-org/nix-cache/caddymodule/nix"
)

// eventually asks until there is nothing wrong any more, and fails the test
// with what is still wrong when patience ends.
func eventually(tb testing.TB, what string, wrong func() error) {
	tb.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := wrong()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			tb.Fatalf("%s: %v", what, err)
		}
	}
}

// await waits for a channel to be closed.
func await(tb testing.TB, what string, done <-chan struct{}) {
	tb.Helper()
	select {
	case <-done:
	case <-time.After(patience):
		tb.Fatalf("%s: not within %v", what, patience)
	}
}

// holdings are what a process could leak.
type holdings struct {
	goroutines  int
	descriptors int
	heap        int64 // bytes in use after a collection
	resident    int64 // bytes
}

func (h holdings) String() string {
	return fmt.Sprintf("%d goroutines, %d descriptors, heap %.1f MiB, resident %.1f MiB",
		h.goroutines, h.descriptors, float64(h.heap)/(1<<20), float64(h.resident)/(1<<20))
}

// holdings asks Caddy what it holds.
func (c *caddy) holdings(tb testing.TB) holdings {
	tb.Helper()
	var h holdings
	profile := c.admin(tb, "GET", "/debug/pprof/goroutine?debug=1", "", "")
	if _, err := fmt.Sscanf(profile, "goroutine profile: total %d", &h.goroutines); err != nil {
		tb.Fatalf("read goroutine profile: %v", err)
	}
	_, stats, _ := strings.Cut(c.admin(tb, "GET", "/debug/pprof/heap?debug=1&gc=1", "", ""), "# HeapAlloc = ")
	if _, err := fmt.Sscan(stats, &h.heap); err != nil {
		tb.Fatalf("read heap profile: %v", err)
	}
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", c.cmd.Process.Pid))
	if err != nil {
		tb.Fatal(err)
	}
	h.descriptors = len(fds)
	h.resident = c.residentNow(tb)
	return h
}

// slack is what a process may hold more than before without it being a leak:
// connections that are about to be closed, pools, maps that don't shrink.
var slack = holdings{goroutines: 10, descriptors: 10, heap: 16 << 20}

// wantNoGrowth waits until Caddy holds no more than before.
func (c *caddy) wantNoGrowth(tb testing.TB, before holdings, slack holdings) {
	tb.Helper()
	var now holdings
	eventually(tb, "what Caddy holds has grown", func() error {
		now = c.holdings(tb)
		if now.goroutines <= before.goroutines+slack.goroutines &&
			now.descriptors <= before.descriptors+slack.descriptors &&
			now.heap <= before.heap+slack.heap {
			return nil
		}
		return fmt.Errorf("before: %v; now: %v", before, now)
	})
	tb.Logf("before: %v; after: %v", before, now)
}

// tierDir is where the disk tier is unless a Caddyfile says otherwise.
func (c *caddy) tierDir() string { return c.dir + "/data/caddy/nix-cache/tier" }

// tierFile returns the file in which a tier keeps an object.
func tierFile(tb testing.TB, tier, path string) string {
	tb.Helper()
	key := strings.TrimPrefix(strings.TrimPrefix(path, "/"), "nar/")
	found, err := filepath.Glob(filepath.Join(tier, "objects", "*", "*-"+key+",*"))
	if err != nil || len(found) != 1 {
		tb.Fatalf("%s is in the tier as %q, %v", path, found, err)
	}
	return found[0]
}

// wantNoFiles checks that a staging area is empty, or not there.
func wantNoFiles(tb testing.TB, dir string) {
	tb.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil && !os.IsNotExist(err) {
		tb.Fatal(err)
	}
	for _, e := range entries {
		tb.Errorf("left behind: %s/%s", dir, e.Name())
	}
}

// paths returns those of all that clients of the origin could see.
func (o *testOrigin) paths(tb testing.TB) (all []string) {
	tb.Helper()
	if o.bucket != nil {
		return o.bucket.paths(tb)
	}
	err := fs.WalkDir(os.DirFS(o.dir), ".", func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && !strings.HasPrefix(path, ".") {
			all = append(all, path)
		}
		return err
	})
	if err != nil {
		tb.Fatal(err)
	}
	return all
}

// read returns an object as it lies at the origin.
func (o *testOrigin) read(tb testing.TB, path string) []byte {
	tb.Helper()
	if o.bucket != nil {
		return o.bucket.read(tb, path)
	}
	return []byte(readFile(tb, filepath.Join(o.dir, path)))
}

func (b *r2Bucket) paths(tb testing.TB) (all []string) {
	tb.Helper()
	pages := s3.NewListObjectsV2Paginator(b.direct, &s3.ListObjectsV2Input{Bucket: aws.String(bucketName)})
	for pages.HasMorePages() {
		page, err := pages.NextPage(tb.Context())
		if err != nil {
			tb.Fatal(err)
		}
		for _, object := range page.Contents {
			all = append(all, *object.Key)
		}
	}
	return all
}

func (b *r2Bucket) read(tb testing.TB, path string) []byte {
	tb.Helper()
	out, err := b.direct.GetObject(tb.Context(), &s3.GetObjectInput{Bucket: aws.String(bucketName), Key: &path})
	if err != nil {
		tb.Fatal(err)
	}
	defer out.Body.Close()
	body, err := io.ReadAll(out.Body)
	if err != nil {
		tb.Fatal(err)
	}
	return body
}

// wantWhole checks that the origin holds nothing that is cut, and no narinfo
// without its NAR. What it finds right it enters into known, and passes over
// what is there.
func (o *testOrigin) wantWhole(tb testing.TB, known map[string]bool) {
	tb.Helper()
	paths := o.paths(tb)
	slices.SortFunc(paths, func(a, b string) int { return len(b) - len(a) }) // NARs before narinfos
	for _, path := range paths {
		if known[path] {
			continue
		}
		if err := checkObject(path, o.read(tb, path), known); err != nil {
			tb.Errorf("the origin has %s: %v", path, err)
		}
		known[path] = true
	}
}

func checkObject(path string, body []byte, known map[string]bool) error {
	p, err := nix.ParseCachePath(path)
	if err != nil {
		return err
	}
	if p.Kind() == nix.KindNAR {
		if sha256.Sum256(body) != p.FileHash() {
			return fmt.Errorf("%d bytes that are not it", len(body))
		}
		return nil
	}
	n, err := nix.ParseNARInfo(body)
	if err == nil && !known[n.URL()] {
		err = errors.New("its NAR is missing")
	}
	return err
}

// tripwire is closed when so many bytes have passed.
type tripwire struct {
	left    atomic.Int64
	tripped chan struct{}
	once    sync.Once
}

func newTripwire(bytes int64) *tripwire {
	w := &tripwire{tripped: make(chan struct{})}
	w.left.Store(bytes)
	return w
}

func (w *tripwire) pass(n int) {
	if w.left.Add(-int64(n)) <= 0 {
		w.once.Do(func() { close(w.tripped) })
	}
}

// fault lets the tripwire see the bodies that a bucket sends.
func (w *tripwire) fault(rw http.ResponseWriter, r *http.Request, next http.Handler) {
	next.ServeHTTP(&tripWriter{rw, w}, r)
}

type tripWriter struct {
	http.ResponseWriter
	wire *tripwire
}

func (w *tripWriter) Write(p []byte) (int, error) {
	n, err := w.ResponseWriter.Write(p)
	w.wire.pass(n)
	return n, err
}

func (w *tripWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// body lets the tripwire see the body that a client sends.
func (w *tripwire) body(data []byte) requestOption {
	return func(r *http.Request) {
		r.Body = io.NopCloser(&tripReader{bytes.NewReader(data), w})
		r.GetBody = nil // not sent twice
	}
}

type tripReader struct {
	r    io.Reader
	wire *tripwire
}

// tripStep is short, since the kernel's buffers run ahead of who reads them.
const tripStep = 16 << 10

func (t *tripReader) Read(p []byte) (int, error) {
	n, err := t.r.Read(p[:min(len(p), tripStep)])
	t.wire.pass(n)
	return n, err
}

// narrow makes connections whose kernel takes in little that nobody reads.
var narrow = net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
	var err error
	if failed := c.Control(func(fd uintptr) {
		err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 64<<10)
	}); failed != nil {
		return failed
	}
	return err
}}

// stream is a response that is still being read.
type stream struct {
	*http.Response
	what string
	head []byte // what has been read
}

// open sends a GET with a connection of its own and reads the first bytes.
func (c *cache) open(tb testing.TB, path string, first int, options ...requestOption) *stream {
	tb.Helper()
	s, err := c.tryOpen(tb.Context(), path, first, options...)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { s.Body.Close() })
	return s
}

func (c *cache) tryOpen(ctx context.Context, path string, first int, options ...requestOption) (*stream, error) {
	req, err := http.NewRequestWithContext(ctx, "GET", c.base+path, nil)
	if err != nil {
		return nil, err
	}
	for _, option := range options {
		option(req)
	}
	transport := &http.Transport{DisableCompression: true, DisableKeepAlives: true, DialContext: narrow.DialContext}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	s := &stream{Response: resp, what: "GET " + path, head: make([]byte, first)}
	if _, err := io.ReadFull(resp.Body, s.head); err != nil {
		resp.Body.Close()
		return nil, fmt.Errorf("%s: status %d, first bytes: %w", s.what, resp.StatusCode, err)
	}
	return s, nil
}

// rest reads the response to its end, and returns how many bytes it had.
func (s *stream) rest() (int64, error) {
	defer s.Body.Close()
	n, err := io.Copy(io.Discard, s.Body)
	return int64(len(s.head)) + n, err
}

// wantRest checks that the response ends whole.
func (s *stream) wantRest(tb testing.TB, want []byte) {
	tb.Helper()
	defer s.Body.Close()
	if err := sameBytes(io.MultiReader(bytes.NewReader(s.head), s.Body), want); err != nil {
		tb.Errorf("%s: %v", s.what, err)
	}
}

// errWrongBytes is a body that looks whole and is not the one it should be.
var errWrongBytes = errors.New("wrong bytes")

// fetch sends a request and compares the body of an answer 200 or 206. The
// error is errWrongBytes, or the connection's; other statuses are for the caller.
func (c *cache) fetch(ctx context.Context, method, path string, want []byte, options ...requestOption) (answer, error) {
	a := answer{Request: method + " " + path}
	resp, err := c.send(ctx, c.http, method, path, options)
	for retries := 0; metReload(err) && retries < 2; retries++ {
		resp, err = c.send(ctx, &http.Client{Transport: unused()}, method, path, options)
	}
	if err != nil {
		return a, err
	}
	defer resp.Body.Close()
	a.Status, a.Header, a.Length = resp.StatusCode, resp.Header, resp.ContentLength
	if a.Status == http.StatusOK || a.Status == http.StatusPartialContent {
		return a, sameBytes(resp.Body, want)
	}
	a.Body, err = io.ReadAll(resp.Body)
	return a, err
}

// metReload reports whether a request may have failed since a reload came just
// then: it closes one of two sockets that listen on the port, and Linux resets
// the connections that nobody has accepted there yet (tcp_migrate_req in
// networking/ip-sysctl.rst), and the server that is ending closes those that
// wait for a request, one of which may be on its way.
func metReload(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, io.EOF)
}

// unused returns a transport that takes a connection of its own for each
// request: a shared one may hold several that the reload has closed.
func unused() http.RoundTripper {
	return &http.Transport{DisableCompression: true, DisableKeepAlives: true}
}

func (c *cache) send(ctx context.Context, client *http.Client, method, path string, options []requestOption) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, nil)
	if err != nil {
		return nil, err
	}
	for _, option := range options {
		option(req)
	}
	return client.Do(req)
}

// sameBytes compares without having a copy of it all, which for hundreds of
// readers costs more than what is tested.
func sameBytes(r io.Reader, want []byte) error {
	buf := make([]byte, 32<<10)
	for at := 0; ; {
		n, err := r.Read(buf)
		if !bytes.HasPrefix(want[at:], buf[:n]) {
			return fmt.Errorf("%w after %d right ones of %d", errWrongBytes, at, len(want))
		}
		at += n
		switch {
		case err == io.EOF && at == len(want):
			return nil
		case err == io.EOF:
			return fmt.Errorf("%w: %d in place of %d", errWrongBytes, at, len(want))
		case err != nil:
			return fmt.Errorf("%d bytes of %d: %w", at, len(want), err)
		}
	}
}

// hold keeps back the answers to all requests but those for the beginning of an
// object, until release.
func (b *r2Bucket) hold() (release func()) {
	held := make(chan struct{})
	b.setFault(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if from := r.Header.Get("Range"); from != "" && !strings.HasPrefix(from, "bytes=0-") {
			<-held
		}
		next.ServeHTTP(w, r)
	})
	return sync.OnceFunc(func() { close(held) })
}

// wantWholeOrBroken checks that what looks whole to a client is.
func (a answer) wantWholeOrBroken(tb testing.TB, err error, body []byte) {
	tb.Helper()
	if err == nil && a.Status < 400 && !bytes.Equal(a.Body, body) {
		tb.Errorf("%s: status %d and %d wrong bytes that look whole", a.Request, a.Status, len(a.Body))
	}
}

// logged returns the first line of Caddy's log with this message.
func (c *caddy) logged(tb testing.TB, message string) map[string]any {
	tb.Helper()
	var fields map[string]any
	_, ok := c.log.wait(0, c.ended, func(line string) bool {
		return strings.Contains(line, message) && json.Unmarshal([]byte(line), &fields) == nil
	})
	if !ok {
		tb.Fatalf("the log has no %q", message)
	}
	return fields
}

// forget has the cache drop what it knows of a path, as an operator would who has
// mended it at the origin.
func (c *cache) forget(tb testing.TB, path string) {
	tb.Helper()
	c.admin(tb, "POST", "/nix-cache/forget", "application/json", fmt.Sprintf(`{"cache": "nix-cache", "paths": [%q]}`, path[1:]))
}

// setBody gives a request a body that can be sent again.
func setBody(r *http.Request, body []byte) {
	r.ContentLength = int64(len(body))
	r.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
	r.Body, _ = r.GetBody()
}
