package integration

import (
	"bytes"
	"context"
	"encoding/xml"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/stevedores-org/nix-cache/caddymodule/nix/nixtest"
)

// s3Error answers in the bucket's place.
func s3Error(status int, code string) bucketFault {
	return func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/xml")
		w.WriteHeader(status)
		if r.Method != http.MethodHead {
			xml.NewEncoder(w).Encode(struct {
				XMLName struct{} `xml:"Error"`
				Code    string
			}{Code: code})
		}
	}
}

// first makes the first n requests that match meet a fault.
func first(n int64, match func(*http.Request) bool, fault bucketFault) bucketFault {
	left := new(atomic.Int64)
	left.Store(n)
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if match(r) && left.Add(-1) >= 0 {
			fault(w, r, next)
			return
		}
		next.ServeHTTP(w, r)
	}
}

func anyRequest(*http.Request) bool { return true }

// isRange matches the request for a range that begins there.
func isRange(from int64) func(*http.Request) bool {
	return func(r *http.Request) bool {
		return strings.HasPrefix(r.Header.Get("Range"), fmt.Sprintf("bytes=%d-", from))
	}
}

// cutAt breaks each connection when so many bytes of its body have passed.
func cutAt(n int64) bucketFault {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		next.ServeHTTP(&stoppedWriter{w, n, func() { panic(http.ErrAbortHandler) }}, r)
	}
}

// stallAt lets so many bytes of each body pass and then nothing.
func stallAt(n int64) bucketFault {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		next.ServeHTTP(&stoppedWriter{w, n, func() {
			<-r.Context().Done()
			panic(http.ErrAbortHandler)
		}}, r)
	}
}

// stoppedWriter stops a body after so many bytes.
type stoppedWriter struct {
	http.ResponseWriter
	left int64
	stop func()
}

func (w *stoppedWriter) Write(p []byte) (int, error) {
	n, err := w.ResponseWriter.Write(p[:min(int64(len(p)), w.left)])
	w.left -= int64(n)
	if n < len(p) {
		http.NewResponseController(w.ResponseWriter).Flush()
		w.stop()
	}
	return n, err
}

func (w *stoppedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// rewriteHeader changes the headers of answers, whatever their bodies are.
func rewriteHeader(change func(http.Header)) bucketFault {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		next.ServeHTTP(&headerWriter{ResponseWriter: w, change: change}, r)
	}
}

type headerWriter struct {
	http.ResponseWriter
	change func(http.Header)
}

func (w *headerWriter) WriteHeader(status int) {
	w.change(w.Header())
	w.ResponseWriter.WriteHeader(status)
}

func (w *headerWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// gate is an address that refuses connections while it is shut.
type gate struct {
	address string
	target  string
	mu      struct {
		sync.Mutex
		listener net.Listener
		conns    []net.Conn
	}
}

// newGate returns a gate before a server, shut.
func newGate(tb testing.TB, endpoint string) *gate {
	tb.Helper()
	target, err := url.Parse(endpoint)
	if err != nil {
		tb.Fatal(err)
	}
	g := &gate{address: freeAddress(tb), target: target.Host}
	tb.Cleanup(g.shut)
	return g
}

func (g *gate) open(tb testing.TB) {
	tb.Helper()
	listener, err := net.Listen("tcp", g.address)
	if err != nil {
		tb.Fatal(err)
	}
	g.mu.Lock()
	g.mu.listener = listener
	g.mu.Unlock()
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go g.forward(conn)
		}
	}()
}

func (g *gate) forward(from net.Conn) {
	defer from.Close()
	to, err := net.Dial("tcp", g.target)
	if err != nil {
		return
	}
	defer to.Close()
	g.mu.Lock()
	g.mu.conns = append(g.mu.conns, from, to)
	g.mu.Unlock()
	go func() {
		io.Copy(to, from)
		to.Close()
	}()
	io.Copy(from, to)
}

// shut refuses new connections and breaks those there are.
func (g *gate) shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.mu.listener != nil {
		g.mu.listener.Close()
	}
	for _, conn := range g.mu.conns {
		conn.Close()
	}
	g.mu.listener, g.mu.conns = nil, nil
}

// TestOriginRefusesConnections: what is cached is served as before, what is
// not gets a clear answer, and nothing has to be done when the origin is back.
func TestOriginRefusesConnections(t *testing.T) {
	t.Parallel()
	o := r2Origin(t)
	g := newGate(t, o.bucket.endpoint)
	o.caddyfile = strings.Replace(o.caddyfile, o.bucket.endpoint, "http://"+g.address, 1)
	warm, cold := signedPackage("gate-warm", 3_000_000), signedPackage("gate-cold", 3_000_000)
	o.lay(t, warm)
	o.lay(t, cold)
	g.open(t)
	c := startCache(t, o)
	warmUp(t, c, warm)

	g.shut()
	wantWarm(t, c, warm)
	for _, path := range []string{narinfoPath(cold), narPath(cold)} {
		for _, method := range []string{"GET", "HEAD"} {
			a := c.do(t, method, path, nil)
			a.wantStatus(t, http.StatusServiceUnavailable)
			a.wantHeader(t, "Retry-After", "5")
		}
	}
	c.get(t, "/nix-cache-info").wantStatus(t, http.StatusOK)
	c.get(t, "/health").wantStatus(t, http.StatusOK)
	c.awaitStatus(t, "/health/ready", http.StatusServiceUnavailable)

	g.open(t)
	c.eventuallyServes(t, cold)
	c.awaitStatus(t, "/health/ready", http.StatusOK)
}

// warmUp brings a package into memory and onto disk.
func warmUp(tb testing.TB, c *cache, p nixtest.Package) {
	tb.Helper()
	c.getUntil(tb, narinfoPath(p), memoryHit)
	c.getUntil(tb, narPath(p), diskHit)
}

// wantWarm checks all ways to read a package that is cached.
func wantWarm(tb testing.TB, c *cache, p nixtest.Package) {
	tb.Helper()
	for path, want := range map[string][]byte{narPath(p): p.File, narinfoPath(p): p.Text()} {
		a := c.get(tb, path)
		a.wantStatus(tb, http.StatusOK)
		a.wantBody(tb, want)
		c.head(tb, path).wantStatus(tb, http.StatusOK)
		c.get(tb, path, header("Range", "bytes=100-199")).wantBody(tb, want[100:200])
		c.get(tb, path, header("If-None-Match", a.Header.Get("ETag"))).wantStatus(tb, http.StatusNotModified)
	}
}

// eventuallyServes waits until the cache has noticed that the origin is back.
func (c *cache) eventuallyServes(tb testing.TB, p nixtest.Package) {
	tb.Helper()
	for path, want := range map[string][]byte{narPath(p): p.File, narinfoPath(p): p.Text()} {
		eventually(tb, "an origin that is well again", func() error {
			a := c.get(tb, path)
			if a.Status != http.StatusOK {
				return fmt.Errorf("%s: status %d", a.Request, a.Status)
			}
			a.wantBody(tb, want)
			return nil
		})
	}
}

// TestBodiesThatBreak: a body that breaks off anywhere is taken up again there.
func TestBodiesThatBreak(t *testing.T) {
	t.Parallel()
	o := smallParts(t)
	c := startCache(t, o)
	const size, mib = 8_000_000, 1 << 20
	for _, tt := range []struct {
		name  string
		fault bucketFault
	}{
		{"the first one at once", first(1, anyRequest, cutAt(0))},
		{"the first one after a byte", first(1, anyRequest, cutAt(1))},
		{"the first one before its last byte", first(1, anyRequest, cutAt(mib-1))},
		{"the second one", first(1, isRange(mib), cutAt(12345))},
		{"the last one before its last byte", first(1, isRange(6*mib), cutAt(size-6*mib))},
		{"the first five", first(5, anyRequest, cutAt(100_000))},
		{"each after 700 kB", cutAt(700_000)},
	} {
		p := signedPackage("breaks-"+strings.ReplaceAll(tt.name, " ", "-"), size)
		o.lay(t, p)
		o.bucket.setFault(tt.fault)
		a, err := c.try(t, "GET", narPath(p), nil)
		if err != nil || !bytes.Equal(a.Body, p.File) {
			t.Errorf("%s: status %d, %d of %d bytes, %v", tt.name, a.Status, len(a.Body), len(p.File), err)
		}
		o.bucket.setFault(first(1, anyRequest, cutAt(40)))
		info := c.get(t, narinfoPath(p))
		info.wantStatus(t, http.StatusOK)
		info.wantBody(t, p.Text())
	}
}

// TestBodiesThatBreakForGood: a body that hardly gets any further ends the
// response before its end, and the next request begins anew.
func TestBodiesThatBreakForGood(t *testing.T) {
	t.Parallel()
	o := smallParts(t)
	c := startCache(t, o)
	p := signedPackage("breaks-for-good", 8_000_000)
	o.lay(t, p)
	o.bucket.setFault(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if isRange(0)(r) {
			next.ServeHTTP(w, r)
			return
		}
		cutAt(10)(w, r, next)
	})
	for _, path := range []string{narPath(p), narinfoPath(p)} {
		a, err := c.try(t, "GET", path, nil)
		if err == nil && a.Status < 500 {
			t.Errorf("%s: status %d and %d bytes that look whole", a.Request, a.Status, len(a.Body))
		}
	}
	o.bucket.setFault(nil)
	c.eventuallyServes(t, p)
}

// TestBodiesThatBreakWithoutDisk: so is one that is passed through.
func TestBodiesThatBreakWithoutDisk(t *testing.T) {
	t.Parallel()
	o := smallParts(t)
	c := startCache(t, o, "disk off")
	p := signedPackage("breaks-without-disk", 3_000_000)
	o.lay(t, p)
	for name, fault := range map[string]bucketFault{
		"at once":             first(1, anyRequest, cutAt(0)),
		"after a byte":        first(1, anyRequest, cutAt(1)),
		"before the last one": first(1, anyRequest, cutAt(int64(len(p.File)-1))),
		"each after 700 kB":   cutAt(700_000),
	} {
		o.bucket.setFault(fault)
		for from, options := range map[int][]requestOption{0: nil, 1000: {header("Range", "bytes=1000-")}} {
			a, err := c.fetch(t.Context(), "GET", narPath(p), p.File[from:], options...)
			if err != nil {
				t.Errorf("%s, from %d on: status %d, %v", name, from, a.Status, err)
			}
		}
	}
	o.bucket.setFault(cutAt(10))
	for range 2 {
		if a, err := c.try(t, "GET", narPath(p), nil); err == nil && a.Status < 500 {
			t.Errorf("%s: status %d and %d bytes that look whole", a.Request, a.Status, len(a.Body))
		}
		o.bucket.setFault(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			next.ServeHTTP(&flipWriter{w}, r)
		})
	}
	c.logged(t, "damaged at the origin")
	c.wantMetric(t, "fills_total", `cache="nix-cache",outcome="mismatch"`, 1)
	o.bucket.setFault(nil)
	c.forget(t, narPath(p))
	c.get(t, narPath(p)).wantBody(t, p.File)
}

// TestDamagedNARIsRefusedByParts: what has been found damaged is not had piece by
// piece, as by a client that resumes, until it is uploaded anew.
func TestDamagedNARIsRefusedByParts(t *testing.T) {
	t.Parallel()
	for name, setup := range map[string][]string{"fetched": nil, "passed through": {"disk off"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := r2Origin(t)
			c := startCache(t, o, setup...)
			p := signedPackage("damaged-by-parts", 3_000_000)
			o.lay(t, p)
			bad := bytes.Clone(p.File)
			bad[1_500_000] ^= 1
			o.put(t, narPath(p)[1:], bad)
			got, err := c.try(t, "GET", narPath(p), nil)
			if err == nil && got.Status == http.StatusOK {
				t.Fatalf("%s: %d bytes that look whole", got.Request, len(got.Body))
			}
			o.bucket.take()
			for _, spec := range []string{fmt.Sprintf("bytes=%d-", len(got.Body)), "bytes=0-0", "bytes=-1000", "bytes=0-2000000", ""} {
				c.get(t, narPath(p), header("Range", spec)).wantRefusal(t, http.StatusBadGateway, "damaged")
			}
			o.bucket.wantRequests(t, narPath(p)[1:])
			c.head(t, narPath(p)).wantStatus(t, http.StatusBadGateway)
			line := c.logged(t, "push the package again")
			if line["path"] != narPath(p)[1:] {
				t.Errorf("the log names %v", line["path"])
			}
			c.wantMetric(t, "fills_total", `cache="nix-cache",outcome="mismatch"`, 1)

			c.head(t, narPath(p), basic(uploadToken)).wantStatus(t, http.StatusNotFound)
			c.get(t, narinfoPath(p), basic(uploadToken)).wantStatus(t, http.StatusNotFound)
			c.put(t, narPath(p), p.File).wantStatus(t, http.StatusCreated)
			c.get(t, narPath(p)).wantBody(t, p.File)
			if !bytes.Equal(o.read(t, narPath(p)[1:]), p.File) {
				t.Error("the upload did not replace the damaged NAR")
			}
		})
	}
}

// TestBodiesThatStall: 30 seconds without a byte are as good as a break.
func TestBodiesThatStall(t *testing.T) {
	t.Parallel()
	const mib = 1 << 20
	for name, fault := range map[string]bucketFault{
		"first body":                first(1, anyRequest, stallAt(5000)),
		"second body":               first(1, isRange(mib), stallAt(5000)),
		"headers of the second":     first(1, isRange(mib), stall),
		"last bytes of the first":   first(1, anyRequest, stallAt(mib-1)),
		"refused while it proceeds": first(2, isRange(mib), s3Error(http.StatusServiceUnavailable, "ServiceUnavailable")),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := smallParts(t)
			c := startCache(t, o)
			p := signedPackage("stalls", 8_000_000)
			o.lay(t, p)
			o.bucket.setFault(fault)
			a := c.get(t, narPath(p))
			a.wantStatus(t, http.StatusOK)
			a.wantBody(t, p.File)
		})
	}
	t.Run("narinfo", func(t *testing.T) {
		t.Parallel()
		o := r2Origin(t)
		c := startCache(t, o)
		p := signedPackage("stalls", 1000)
		o.lay(t, p)
		o.bucket.setFault(stallAt(40))
		a := c.get(t, narinfoPath(p))
		a.wantRefusal(t, http.StatusGatewayTimeout, "")
		a.wantHeader(t, "Retry-After", "5")
		o.bucket.setFault(nil)
		c.eventuallyServes(t, p)
	})
}

var bursts = []struct {
	status int
	code   string
}{
	{http.StatusInternalServerError, "InternalError"},
	{http.StatusBadGateway, "BadGateway"},
	{http.StatusServiceUnavailable, "ServiceUnavailable"},
	{http.StatusServiceUnavailable, "SlowDown"},
	{http.StatusTooManyRequests, "TooManyRequests"},
}

// TestBurstsOfErrors: a short burst goes unnoticed; in a long one what is
// cached is served, the rest is 503, and neither is taken for an absence.
func TestBurstsOfErrors(t *testing.T) {
	t.Parallel()
	for _, burst := range bursts {
		t.Run(fmt.Sprint(burst.status, " ", burst.code), func(t *testing.T) {
			t.Parallel()
			o := r2Origin(t)
			c := startCache(t, o)
			warm, cold := signedPackage("burst-warm", 3_000_000), signedPackage("burst-cold", 3_000_000)
			o.lay(t, warm)
			fault := s3Error(burst.status, burst.code)
			for _, path := range []string{narinfoPath(warm), narPath(warm)} {
				o.bucket.setFault(first(1, anyRequest, fault))
				c.get(t, path).wantStatus(t, http.StatusOK)
			}
			warmUp(t, c, warm)

			o.bucket.setFault(fault)
			wantWarm(t, c, warm)
			for _, path := range []string{narinfoPath(cold), narPath(cold)} {
				a := c.get(t, path)
				a.wantRefusal(t, http.StatusServiceUnavailable, "")
				a.wantHeader(t, "Retry-After", "5")
			}
			if a := c.put(t, narPath(cold), cold.File); a.Status < 500 {
				t.Errorf("%s: status %d, want the origin's failure", a.Request, a.Status)
			}
			o.bucket.setFault(nil)
			eventually(t, "uploads to an origin that is well again", func() error {
				if a := c.put(t, narPath(cold), cold.File); a.Status != http.StatusCreated {
					return fmt.Errorf("%s: status %d", a.Request, a.Status)
				}
				return nil
			})
			c.put(t, narinfoPath(cold), cold.Text()).wantStatus(t, http.StatusCreated)
			c.eventuallyServes(t, cold)
			o.wantWhole(t, make(map[string]bool))
		})
	}
}

// TestAnswersThatLie: an origin that says one thing and sends another is found
// out, whatever it is.
func TestAnswersThatLie(t *testing.T) {
	t.Parallel()
	set := func(name, value string) bucketFault {
		return rewriteHeader(func(h http.Header) { h.Set(name, value) })
	}
	o := smallParts(t)
	c := startCache(t, o)
	const mib = 1 << 20
	for _, tt := range []struct {
		name  string
		fault bucketFault
	}{
		{"another range", set("Content-Range", "bytes 1-1048576/3000112")},
		{"a shorter range", set("Content-Range", "bytes 0-99/3000112")},
		{"no numbers in the range", set("Content-Range", "bytes what/3000112")},
		{"a smaller file", set("Content-Range", "bytes 0-1048575/2000000")},
		{"a larger file", set("Content-Range", "bytes 0-1048575/9000000")},
		{"an impossible file", set("Content-Range", "bytes 0-1048575/9223372036854775807")},
		{"more bytes than come", rewriteHeader(longer)},
		{"another range later", first(1, isRange(mib), set("Content-Range", "bytes 0-1951535/3000112"))},
		{"another size later", first(1, isRange(mib), set("Content-Range", "bytes 1048576-3000111/3000113"))},
		{"one bit of the bytes", func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			next.ServeHTTP(&flipWriter{w}, r)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := signedPackage("lies-"+strings.ReplaceAll(tt.name, " ", "-"), 3_000_000)
			o.lay(t, p)
			o.bucket.setFault(tt.fault)
			a, err := c.try(t, "GET", narPath(p), nil)
			a.wantWholeOrBroken(t, err, p.File)
			o.bucket.setFault(nil)
			c.forget(t, narPath(p)) // found damaged, it would be refused for minutes
			c.eventuallyServes(t, p)
		})
	}
	t.Run("the whole in place of a range", func(t *testing.T) {
		p := signedPackage("lies-whole", 3_000_000)
		o.lay(t, p)
		o.bucket.setFault(func(w http.ResponseWriter, _ *http.Request, _ http.Handler) { w.Write(p.File) })
		a, err := c.try(t, "GET", narPath(p), nil)
		a.wantWholeOrBroken(t, err, p.File)
		o.bucket.setFault(nil)
		c.eventuallyServes(t, p)
	})
	t.Run("more bytes of a narinfo than come", func(t *testing.T) {
		p := signedPackage("lies-narinfo", 100)
		o.lay(t, p)
		o.bucket.setFault(rewriteHeader(longer))
		a := c.get(t, narinfoPath(p))
		a.wantRefusal(t, http.StatusServiceUnavailable, "")
		o.bucket.setFault(nil)
		c.eventuallyServes(t, p)
	})
}

// longer announces one byte more than there is.
func longer(h http.Header) {
	var n int64
	fmt.Sscan(h.Get("Content-Length"), &n)
	h.Set("Content-Length", fmt.Sprint(n+1))
}

// flipWriter changes a bit of each write.
type flipWriter struct{ http.ResponseWriter }

func (w *flipWriter) Write(p []byte) (int, error) {
	flipped := bytes.Clone(p)
	flipped[len(p)/2] ^= 1
	return w.ResponseWriter.Write(flipped)
}

func (w *flipWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// TestObjectChangesBetweenParts: two versions are never mixed.
func TestObjectChangesBetweenParts(t *testing.T) {
	t.Parallel()
	o := smallParts(t)
	c := startCache(t, o)
	p := signedPackage("changes", 8_000_000)
	path := narPath(p)[1:]
	other := bytes.Clone(p.File)
	other[len(other)-1] ^= 1
	o.lay(t, p)
	var once sync.Once
	o.bucket.setFault(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if !isRange(0)(r) {
			once.Do(func() { o.put(t, path, other) })
		}
		next.ServeHTTP(w, r)
	})
	for range 2 { // then the wrong one throughout
		if a, err := c.try(t, "GET", narPath(p), nil); err == nil && a.Status < 500 {
			t.Errorf("%s: status %d and %d bytes that look whole", a.Request, a.Status, len(a.Body))
		}
	}
	if c.metric(t, "fills_total", `cache="nix-cache",outcome="mismatch"`) == 0 {
		t.Error("the wrong object is not counted as one")
	}
	o.put(t, path, p.File)
	c.forget(t, narPath(p))
	a := c.get(t, narPath(p))
	a.wantStatus(t, http.StatusOK)
	a.wantBody(t, p.File)
}

// TestMissingBucket: it is not the absence of what is asked for.
func TestMissingBucket(t *testing.T) {
	t.Parallel()
	o := r2Origin(t)
	c := startCache(t, o)
	p := signedPackage("missing-bucket", 3_000_000)
	bucket := &s3.DeleteBucketInput{Bucket: aws.String(bucketName)}
	if _, err := o.bucket.direct.DeleteBucket(context.WithoutCancel(t.Context()), bucket); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{narinfoPath(p), narPath(p)} {
		c.get(t, path).wantRefusal(t, http.StatusBadGateway, "")
		c.head(t, path).wantStatus(t, http.StatusBadGateway)
		if a := c.put(t, path, p.File); a.Status < 400 || a.Status == http.StatusNotFound {
			t.Errorf("%s: status %d", a.Request, a.Status)
		}
	}
	c.awaitStatus(t, "/health/ready", http.StatusServiceUnavailable)
	c.logged(t, "there is no such bucket")
	if _, err := o.bucket.direct.CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: aws.String(bucketName)}); err != nil {
		t.Fatal(err)
	}
	o.lay(t, p)
	for path, want := range map[string][]byte{narPath(p): p.File, narinfoPath(p): p.Text()} {
		a := c.get(t, path)
		a.wantStatus(t, http.StatusOK)
		a.wantBody(t, want)
	}
}
