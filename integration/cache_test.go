package integration

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stevedores-org/nix-cache/caddymodule/nix/nixtest"
)

// Tokens of the caches under test.
const (
	uploadToken = "upload-secret"
	deleteToken = "delete-secret"
	readToken   = "read-secret"
)

// cacheDirective returns a nix_cache directive before an origin, with
// testPublicKey and uploadToken. Further subdirectives go in as they are.
func cacheDirective(o *testOrigin, more ...string) string {
	lines := append([]string{
		o.caddyfile,
		"upload_token " + uploadToken,
		"trusted_public_key " + testPublicKey,
	}, more...)
	return "nix_cache {\n\t\t" + strings.Join(lines, "\n\t\t") + "\n\t}"
}

// site returns a site with an access log.
func site(address, directives string) string {
	return fmt.Sprintf("%s {\n\tlog\n\t%s\n}\n", address, directives)
}

// cache is a nix_cache over plain HTTP, as a Go client sees it.
type cache struct {
	*caddy
	origin *testOrigin
	base   string // URL, without a slash at the end
	http   *http.Client
}

func startCache(tb testing.TB, o *testOrigin, more ...string) *cache {
	tb.Helper()
	return caddySetup{}.startCache(tb, o, more)
}

// startFastCache is startCache without the race detector, for what is measured.
func startFastCache(tb testing.TB, o *testOrigin, more ...string) *cache {
	tb.Helper()
	return caddySetup{Command: []string{requireEnv(tb, "CADDY")}}.startCache(tb, o, more)
}

func (s caddySetup) startCache(tb testing.TB, o *testOrigin, more []string) *cache {
	tb.Helper()
	s.Caddyfile = globalOptions + site("http://localhost", cacheDirective(o, more...))
	c := s.start(tb)
	return &cache{caddy: c, origin: o, base: c.HTTP, http: c.client(tb)}
}

// answer is a response with its body, read to the end.
type answer struct {
	Request string
	Status  int
	Header  http.Header
	Body    []byte
	Length  int64 // of Content-Length, or -1
}

// requestOption changes a request before it is sent.
type requestOption func(*http.Request)

func header(name, value string) requestOption {
	return func(r *http.Request) { r.Header.Set(name, value) }
}

func basic(password string) requestOption {
	return func(r *http.Request) { r.SetBasicAuth("anyone", password) }
}

func bearer(token string) requestOption { return header("Authorization", "Bearer "+token) }

// try sends a request. An error is one of the connection or of an incomplete
// body; the answer then has what came before it.
func (c *cache) try(tb testing.TB, method, path string, body []byte, options ...requestOption) (answer, error) {
	tb.Helper()
	req, err := http.NewRequestWithContext(tb.Context(), method, c.base+path, bytes.NewReader(body))
	if err != nil {
		tb.Fatal(err)
	}
	for _, option := range options {
		option(req)
	}
	a := answer{Request: method + " " + path}
	resp, err := c.http.Do(req)
	if err != nil {
		return a, err
	}
	defer resp.Body.Close()
	a.Status, a.Header, a.Length = resp.StatusCode, resp.Header, resp.ContentLength
	a.Body, err = io.ReadAll(resp.Body)
	return a, err
}

func (c *cache) do(tb testing.TB, method, path string, body []byte, options ...requestOption) answer {
	tb.Helper()
	a, err := c.try(tb, method, path, body, options...)
	if err != nil {
		tb.Fatalf("%s: %v", a.Request, err)
	}
	return a
}

func (c *cache) get(tb testing.TB, path string, options ...requestOption) answer {
	tb.Helper()
	return c.do(tb, "GET", path, nil, options...)
}

func (c *cache) head(tb testing.TB, path string, options ...requestOption) answer {
	tb.Helper()
	return c.do(tb, "HEAD", path, nil, options...)
}

// put uploads with uploadToken unless an option says otherwise.
func (c *cache) put(tb testing.TB, path string, body []byte, options ...requestOption) answer {
	tb.Helper()
	return c.do(tb, "PUT", path, body, append([]requestOption{basic(uploadToken)}, options...)...)
}

// getUntil repeats a GET until its Cache-Status is this one. Each answer on the
// way must be good too.
func (c *cache) getUntil(tb testing.TB, path, cacheStatus string) answer {
	tb.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		a := c.get(tb, path)
		if a.Header.Get("Cache-Status") == cacheStatus {
			return a
		}
		a.wantStatus(tb, http.StatusOK)
		select {
		case <-tick.C:
		case <-deadline:
			tb.Fatalf("%s: Cache-Status stays %q, want %q", a.Request, a.Header.Get("Cache-Status"), cacheStatus)
		}
	}
}

func (a answer) wantStatus(tb testing.TB, status int) {
	tb.Helper()
	if a.Status != status {
		tb.Errorf("%s: status %d, want %d; body %.200q", a.Request, a.Status, status, a.Body)
	}
}

func (a answer) wantHeader(tb testing.TB, name, value string) {
	tb.Helper()
	if got := strings.Join(a.Header.Values(name), ", "); got != value {
		tb.Errorf("%s: %s is %q, want %q", a.Request, name, got, value)
	}
}

func (a answer) wantBody(tb testing.TB, body []byte) {
	tb.Helper()
	if !bytes.Equal(a.Body, body) {
		tb.Errorf("%s: body of %d bytes %.100q, want %d bytes %.100q", a.Request, len(a.Body), a.Body, len(body), body)
	}
}

// wantRefusal checks an error answer: its status and a body that a client
// shows to its user, one short line with this text in it.
func (a answer) wantRefusal(tb testing.TB, status int, text string) {
	tb.Helper()
	a.wantStatus(tb, status)
	line := strings.TrimSuffix(string(a.Body), "\n")
	if line == "" || len(line) >= 1024 || strings.ContainsAny(line, "\n\r") {
		tb.Errorf("%s: body is not one short line: %q", a.Request, a.Body)
	}
	if !strings.Contains(strings.ToLower(line), strings.ToLower(text)) {
		tb.Errorf("%s: body %q says nothing of %q", a.Request, line, text)
	}
	if got := a.Header.Get("Content-Type"); !strings.HasPrefix(got, "text/plain") {
		tb.Errorf("%s: Content-Type of a refusal is %q", a.Request, got)
	}
	if strings.Contains(a.Header.Get("Cache-Control"), "immutable") {
		tb.Errorf("%s: a refusal is immutable", a.Request)
	}
}

// narinfoPath and narPath are the URL paths of a package.
func narinfoPath(p nixtest.Package) string { return "/" + p.NARInfo.StorePath.Hash() + ".narinfo" }
func narPath(p nixtest.Package) string     { return "/" + p.NARInfo.URL() }

// signedPackage returns a package signed by testKey.
func signedPackage(name string, size int, options ...nixtest.Option) nixtest.Package {
	return nixtest.NewPackage(name, size, append(options, nixtest.SignedBy(testKey))...)
}

// lay puts a package into the origin behind the cache's back.
func (o *testOrigin) lay(tb testing.TB, p nixtest.Package) {
	tb.Helper()
	o.put(tb, narPath(p)[1:], p.File)
	o.put(tb, narinfoPath(p)[1:], p.Text())
}

// upload puts a package into the cache.
func (c *cache) upload(tb testing.TB, p nixtest.Package) {
	tb.Helper()
	c.put(tb, narPath(p), p.File).wantStatus(tb, http.StatusCreated)
	c.put(tb, narinfoPath(p), p.Text()).wantStatus(tb, http.StatusCreated)
}
