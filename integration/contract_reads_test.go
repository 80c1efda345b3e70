package integration

import (
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/stevedores-org/nix-cache/caddymodule/nix/nixtest"
)

// Values of Cache-Status; see RFC 9211.
const (
	memoryHit   = "nix-cache; hit; detail=memory"
	diskHit     = "nix-cache; hit; detail=disk"
	negativeHit = "nix-cache; hit; detail=negative"
	stored      = "nix-cache; fwd=miss; fwd-status=200; stored"
	bypass      = "nix-cache; fwd=bypass"
	miss        = "nix-cache; fwd=miss" // and more after it
)

// readCase is a kind of file, and where the cache has it from at the first,
// the second, and the first read after a restart.
type readCase struct {
	name, path          string
	body                []byte
	contentType         string
	cacheControl        []string // sorted
	first, again, fresh string   // values of Cache-Status
}

func readCases(o *testOrigin, p nixtest.Package) []readCase {
	narinfo := readCase{
		name: "narinfo", path: narinfoPath(p), body: p.Text(), contentType: "text/x-nix-narinfo",
		cacheControl: []string{"immutable", "max-age=31536000", "public"},
		first:        stored, again: memoryHit, fresh: diskHit,
	}
	nar := readCase{
		name: "nar", path: narPath(p), body: p.File, contentType: "application/x-nix-nar",
		cacheControl: []string{"immutable", "max-age=31536000", "no-transform", "public"},
		first:        stored, again: diskHit, fresh: diskHit,
	}
	if o.bucket == nil {
		narinfo.fresh = stored
		nar.first, nar.again, nar.fresh = bypass, bypass, bypass
	}
	return []readCase{narinfo, nar}
}

// TestReads has a subtest for each statement of the contract on reads.
func TestReads(t *testing.T) {
	t.Parallel()
	etags := map[string]string{} // of each kind of file, whatever the origin
	forEachOrigin(t, func(t *testing.T, o *testOrigin) {
		p := signedPackage("reads", 100_000)
		o.lay(t, p)
		c := startCache(t, o)
		for _, rc := range readCases(o, p) {
			t.Run(rc.name, func(t *testing.T) {
				t.Run("HEAD never starts a fill", func(t *testing.T) { testColdHead(t, c, rc) })
				t.Run("miss and hit", func(t *testing.T) { testMissAndHit(t, c, rc) })
				t.Run("restart", func(t *testing.T) { testRestart(t, c, rc) })
				t.Run("HEAD answers as GET would", func(t *testing.T) { testHeadAsGet(t, c, rc) })
				t.Run("ranges", func(t *testing.T) { testRanges(t, c, rc) })
				t.Run("not modified", func(t *testing.T) { testNotModified(t, c, rc) })
				t.Run("range not satisfiable", func(t *testing.T) { testUnsatisfiable(t, c, rc) })
				etag := c.get(t, rc.path).Header.Get("ETag")
				if other, ok := etags[rc.name]; ok && etag != other {
					t.Errorf("ETag is %s, and %s over another origin", etag, other)
				}
				etags[rc.name] = etag
			})
		}
		t.Run("absent", func(t *testing.T) { testAbsent(t, c) })
	})
}

func (rc readCase) check(t *testing.T, a answer) {
	t.Helper()
	a.wantStatus(t, http.StatusOK)
	rc.checkHeader(t, a)
	a.wantHeader(t, "Content-Type", rc.contentType)
	if a.Length != int64(len(rc.body)) {
		t.Errorf("%s: Content-Length is %d, want %d", a.Request, a.Length, len(rc.body))
	}
}

// checkHeader checks what 200, 206 and 304 have in common.
func (rc readCase) checkHeader(t *testing.T, a answer) {
	t.Helper()
	a.wantHeader(t, "X-Content-Type-Options", "nosniff")
	directives := strings.Split(a.Header.Get("Cache-Control"), ", ")
	slices.Sort(directives)
	if !slices.Equal(directives, rc.cacheControl) {
		t.Errorf("%s: Cache-Control is %q, want %q", a.Request, directives, rc.cacheControl)
	}
	if etag := a.Header.Get("ETag"); len(etag) < 3 || !strings.HasPrefix(etag, `"`) {
		t.Errorf("%s: ETag %q is not a strong one", a.Request, etag)
	}
	if a.Header.Get("Cache-Status") == "" {
		t.Errorf("%s: no Cache-Status", a.Request)
	}
}

func testColdHead(t *testing.T, c *cache, rc readCase) {
	if c.origin.bucket != nil {
		c.origin.bucket.take()
	}
	a := c.head(t, rc.path)
	rc.check(t, a)
	a.wantHeader(t, "Accept-Ranges", "bytes")
	if c.origin.bucket != nil {
		checkStat(t, rc, c.origin.bucket.take())
	}
}

// checkStat: to describe an object, the cache asks for it once, and for the
// first byte of a NAR at most.
func checkStat(t *testing.T, rc readCase, requests []bucketRequest) {
	t.Helper()
	if len(requests) != 1 {
		t.Errorf("%d requests to the bucket, want 1: %v", len(requests), requests)
	}
	for _, r := range requests {
		if rc.name == "nar" && r.Method != "HEAD" && r.Range != "bytes=0-0" {
			t.Errorf("the bucket was asked for %v", r)
		}
	}
}

func testMissAndHit(t *testing.T, c *cache, rc readCase) {
	first := c.get(t, rc.path)
	rc.check(t, first)
	first.wantHeader(t, "Accept-Ranges", "bytes")
	first.wantHeader(t, "Cache-Status", rc.first)
	first.wantBody(t, rc.body)
	if c.origin.bucket != nil {
		c.origin.bucket.wantRequests(t, rc.path[1:], "GET")
	}
	again := c.getUntil(t, rc.path, rc.again)
	rc.check(t, again)
	again.wantBody(t, rc.body)
	again.wantHeader(t, "ETag", first.Header.Get("ETag"))
	if c.origin.bucket != nil {
		c.origin.bucket.wantRequests(t, rc.path[1:])
	}
}

func testRestart(t *testing.T, c *cache, rc readCase) {
	before := c.get(t, rc.path)
	c.restart(t)
	a := c.get(t, rc.path)
	rc.check(t, a)
	a.wantHeader(t, "Cache-Status", rc.fresh)
	a.wantHeader(t, "ETag", before.Header.Get("ETag"))
	a.wantBody(t, rc.body)
	if c.origin.bucket != nil {
		c.origin.bucket.wantRequests(t, rc.path[1:])
	}
}

func testHeadAsGet(t *testing.T, c *cache, rc readCase) {
	for _, options := range [][]requestOption{
		nil,
		{header("Range", "bytes=10-19")},
		{header("Range", "bytes=999999999-")},
		{header("If-None-Match", "*")},
	} {
		get, head := c.get(t, rc.path, options...), c.head(t, rc.path, options...)
		head.wantStatus(t, get.Status)
		for _, name := range []string{"ETag", "Content-Length", "Content-Type", "Content-Range", "Cache-Control", "Accept-Ranges", "Cache-Status"} {
			head.wantHeader(t, name, get.Header.Get(name))
		}
	}
}

func testRanges(t *testing.T, c *cache, rc readCase) {
	size := len(rc.body)
	for spec, want := range map[string][2]int{
		"bytes=0-0":                         {0, 1},
		"bytes=10-19":                       {10, 20},
		"bytes=-7":                          {size - 7, size},
		"bytes=20-":                         {20, size},
		fmt.Sprintf("bytes=%d-", size-1):    {size - 1, size},
		fmt.Sprintf("bytes=5-%d", size+100): {5, size},
	} {
		a := c.get(t, rc.path, header("Range", spec))
		a.Request += " " + spec
		a.wantStatus(t, http.StatusPartialContent)
		a.wantHeader(t, "Content-Range", fmt.Sprintf("bytes %d-%d/%d", want[0], want[1]-1, size))
		a.wantBody(t, rc.body[want[0]:want[1]])
		rc.checkHeader(t, a)
	}
	testMultiRange(t, c, rc)
}

func testMultiRange(t *testing.T, c *cache, rc readCase) {
	a := c.get(t, rc.path, header("Range", "bytes=0-1,10-19"))
	a.wantStatus(t, http.StatusPartialContent)
	mediaType, params, err := mime.ParseMediaType(a.Header.Get("Content-Type"))
	if err != nil || mediaType != "multipart/byteranges" {
		t.Fatalf("%s: Content-Type is %q", a.Request, a.Header.Get("Content-Type"))
	}
	parts := multipart.NewReader(strings.NewReader(string(a.Body)), params["boundary"])
	for _, want := range [][]byte{rc.body[0:2], rc.body[10:20]} {
		part, err := parts.NextPart()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(part); err != nil || string(got) != string(want) {
			t.Errorf("part is %q (%v), want %q", got, err, want)
		}
	}
	if _, err := parts.NextPart(); err != io.EOF {
		t.Errorf("more parts than ranges: %v", err)
	}
}

func testNotModified(t *testing.T, c *cache, rc readCase) {
	etag := c.get(t, rc.path).Header.Get("ETag")
	for _, value := range []string{etag, `"other", ` + etag, "*"} {
		a := c.get(t, rc.path, header("If-None-Match", value))
		a.wantStatus(t, http.StatusNotModified)
		a.wantHeader(t, "ETag", etag)
		rc.checkHeader(t, a)
	}
	c.get(t, rc.path, header("If-None-Match", `"other"`)).wantStatus(t, http.StatusOK)
}

func testUnsatisfiable(t *testing.T, c *cache, rc readCase) {
	a := c.get(t, rc.path, header("Range", fmt.Sprintf("bytes=%d-", len(rc.body))))
	a.wantStatus(t, http.StatusRequestedRangeNotSatisfiable)
	a.wantHeader(t, "Content-Range", fmt.Sprintf("bytes */%d", len(rc.body)))
	if got := a.Header.Get("Cache-Control"); strings.Contains(got, "immutable") {
		t.Errorf("%s: Cache-Control of a 416 is %q", a.Request, got)
	}
}

// TestSmallRangeOfAColdNAR costs what it asks for; who wants more has the NAR
// fetched, and so has whoever comes again.
func TestSmallRangeOfAColdNAR(t *testing.T) {
	t.Parallel()
	o := r2Origin(t)
	c := startCache(t, o)
	p, missing := signedPackage("small-range", 9_000_000), signedPackage("small-range-missing", 1000)
	o.lay(t, p)
	size := len(p.File)
	first := c.get(t, narPath(p), header("Range", "bytes=0-0"))
	first.wantStatus(t, http.StatusPartialContent)
	first.wantHeader(t, "Content-Range", fmt.Sprintf("bytes 0-0/%d", size))
	first.wantHeader(t, "Cache-Status", bypass)
	first.wantBody(t, p.File[:1])
	if asked := o.bucket.take(); len(asked) != 1 || asked[0].Method != "GET" || asked[0].Range != "bytes=0-0" {
		t.Errorf("one byte cost %v", asked)
	}
	again := c.get(t, narPath(p), header("Range", "bytes=8000000-8000999"))
	again.wantHeader(t, "Cache-Status", stored)
	again.wantBody(t, p.File[8000000:8001000])
	c.getUntil(t, narPath(p), diskHit).wantBody(t, p.File)

	for i, spec := range []string{"bytes=100-", "bytes=0-1048576", "bytes=-100", "bytes=0-9,20-29"} {
		p := signedPackage(fmt.Sprint("not-so-small-range-", i), 3_000_000)
		o.lay(t, p)
		c.get(t, narPath(p), header("Range", spec)).wantHeader(t, "Cache-Status", stored)
	}
	beyond := signedPackage("range-beyond", 3_000_000)
	o.lay(t, beyond)
	c.get(t, narPath(beyond), header("Range", "bytes=4000000-4000009")).wantStatus(t, http.StatusRequestedRangeNotSatisfiable)
	c.get(t, narPath(missing), header("Range", "bytes=0-0")).wantStatus(t, http.StatusNotFound)
	c.get(t, narPath(missing), header("Range", "bytes=0-0")).wantHeader(t, "Cache-Status", negativeHit)
}

// testAbsent: the cache remembers what is not there, if it has to ask for it
// elsewhere.
func testAbsent(t *testing.T, c *cache) {
	p := nixtest.NewPackage("absent", 100)
	for _, path := range []string{narinfoPath(p), narPath(p)} {
		first, again := miss, negativeHit
		if c.origin.bucket == nil && path == narPath(p) {
			first, again = bypass, bypass+"; fwd-status=404"
		}
		a := c.get(t, path)
		a.wantRefusal(t, http.StatusNotFound, "")
		a.wantHeader(t, "Cache-Control", "no-store")
		if got := a.Header.Get("Cache-Status"); !strings.HasPrefix(got, first) || strings.Contains(got, "stored") {
			t.Errorf("%s: Cache-Status is %q, want %s…", a.Request, got, first)
		}
		if c.origin.bucket != nil {
			c.origin.bucket.take()
		}
		for _, a := range []answer{c.get(t, path), c.head(t, path)} {
			a.wantStatus(t, http.StatusNotFound)
			a.wantHeader(t, "Cache-Control", "no-store")
			a.wantHeader(t, "Cache-Status", again)
		}
		if c.origin.bucket != nil {
			c.origin.bucket.wantRequests(t, path[1:])
		}
	}
}

// TestReadsOfABrokenOrigin: a client learns of it, and the cache forgets it.
func TestReadsOfABrokenOrigin(t *testing.T) {
	t.Parallel()
	p := signedPackage("broken-origin", 3_000_000)
	for _, broken := range []struct {
		name   string
		fault  bucketFault
		status int
	}{
		{"refused", refuse, http.StatusServiceUnavailable},
		{"stalled", stall, http.StatusGatewayTimeout},
	} {
		t.Run(broken.name, func(t *testing.T) {
			t.Parallel()
			o := r2Origin(t)
			o.lay(t, p)
			c := startCache(t, o)
			for _, path := range []string{narinfoPath(p), narPath(p)} {
				o.bucket.setFault(broken.fault)
				a := c.get(t, path)
				a.wantRefusal(t, broken.status, "")
				a.wantHeader(t, "Retry-After", "5")
				o.bucket.setFault(nil)
				c.get(t, path).wantStatus(t, http.StatusOK)
			}
		})
	}
	t.Run("broken off", func(t *testing.T) {
		t.Parallel()
		o := r2Origin(t)
		o.lay(t, p)
		c := startCache(t, o)
		o.bucket.setFault(breakOff(1_000_000))
		if a, err := c.try(t, "GET", narPath(p), nil); err == nil && a.Status < 500 {
			t.Errorf("%s: status %d and a body of %d bytes that looks whole", a.Request, a.Status, len(a.Body))
		}
		o.bucket.setFault(nil)
		c.get(t, narPath(p)).wantBody(t, p.File)
	})
}
