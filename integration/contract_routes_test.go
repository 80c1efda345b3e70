package integration

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stevedores-org/nix-cache/caddymodule/nix/nixtest"
)

const someHash = "0123456789abcdfghijklmnpqrsvwxyz"

// TestRoutes has a subtest for each row of the contract's table of routes.
func TestRoutes(t *testing.T) {
	forEachOrigin(t, func(t *testing.T, o *testOrigin) {
		c := startCache(t, o, "token deleter "+deleteToken+" upload delete")
		t.Run("nix-cache-info", func(t *testing.T) { testCacheInfo(t, c, "/nix-cache-info") })
		t.Run("root", func(t *testing.T) { testCacheInfo(t, c, "/") })
		t.Run("health", func(t *testing.T) { testHealth(t, c, "/health") })
		t.Run("health ready", func(t *testing.T) { testHealth(t, c, "/health/ready") })
		t.Run("narinfo", func(t *testing.T) { testNARInfoRoute(t, c) })
		t.Run("nar", func(t *testing.T) { testNARRoute(t, c) })
		t.Run("every other path", func(t *testing.T) { testOtherPaths(t, c) })
		t.Run("another method", func(t *testing.T) { testOtherMethods(t, c) })
		t.Run("percent-encoded path", func(t *testing.T) { testEncodedPath(t, c) })
	})
}

func testCacheInfo(t *testing.T, c *cache, path string) {
	const want = "StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 40\n"
	for _, method := range []string{"GET", "HEAD"} {
		a := c.do(t, method, path, nil)
		a.wantStatus(t, http.StatusOK)
		a.wantHeader(t, "Content-Type", "text/x-nix-cache-info")
		a.wantHeader(t, "X-Content-Type-Options", "nosniff")
		if got := a.Header.Get("Cache-Control"); !strings.Contains(got, "max-age=3600") || strings.Contains(got, "immutable") {
			t.Errorf("%s: Cache-Control is %q", a.Request, got)
		}
		if a.Length != int64(len(want)) {
			t.Errorf("%s: Content-Length is %d, want %d", a.Request, a.Length, len(want))
		}
		if method == "GET" {
			a.wantBody(t, []byte(want))
		}
	}
	a := c.put(t, path, []byte("StoreDir: /elsewhere\nPriority: 1\n"))
	a.wantRefusal(t, http.StatusMethodNotAllowed, "")
	a.wantHeader(t, "Allow", "GET, HEAD")
	c.get(t, path).wantBody(t, []byte(want))
}

func testHealth(t *testing.T, c *cache, path string) {
	a := c.get(t, path)
	a.wantStatus(t, http.StatusOK)
	a.wantHeader(t, "Content-Type", "application/json")
	a.wantHeader(t, "X-Content-Type-Options", "nosniff")
	a.wantHeader(t, "Cache-Control", "no-store")
	var health struct {
		Status, Cache string
		Timestamp     time.Time
	}
	if err := json.Unmarshal(a.Body, &health); err != nil {
		t.Fatalf("%s: %v in %q", a.Request, err, a.Body)
	}
	if health.Status != "ok" || health.Cache != "nix-cache" || time.Since(health.Timestamp).Abs() > patience {
		t.Errorf("%s: %s", a.Request, a.Body)
	}
	h := c.head(t, path)
	h.wantStatus(t, http.StatusOK)
	h.wantHeader(t, "Content-Type", "application/json")
}

func testNARInfoRoute(t *testing.T, c *cache) {
	p := signedPackage("route-narinfo", 1000)
	c.upload(t, p)
	path := narinfoPath(p)
	a := c.get(t, path)
	a.wantStatus(t, http.StatusOK)
	a.wantHeader(t, "Content-Type", "text/x-nix-narinfo")
	a.wantHeader(t, "X-Content-Type-Options", "nosniff")
	a.wantBody(t, p.Text())
	c.head(t, path).wantHeader(t, "Content-Type", "text/x-nix-narinfo")
	testDelete(t, c, path)
}

func testNARRoute(t *testing.T, c *cache) {
	p := signedPackage("route-nar", 1000)
	path := narPath(p)
	c.put(t, path, p.File).wantStatus(t, http.StatusCreated)
	c.get(t, path).wantBody(t, p.File)
	testDelete(t, c, path)

	for _, suffix := range []string{"", ".xz", ".zst", ".bz2", ".br", ".lzip", ".lz4"} {
		path := strings.TrimSuffix(path, ".nar") + ".nar" + suffix
		c.origin.put(t, path[1:], p.File)
	}
	for _, suffix := range []string{".xz", ".zst", ".bz2", ".br", ".lzip", ".lz4"} {
		a := c.get(t, path+suffix)
		a.wantStatus(t, http.StatusOK)
		a.wantHeader(t, "Content-Type", "application/x-nix-nar")
		a.wantHeader(t, "X-Content-Type-Options", "nosniff")
		a.wantBody(t, p.File)
		c.head(t, path+suffix).wantHeader(t, "Content-Type", "application/x-nix-nar")
	}
}

// testDelete deletes what the cache has just served.
func testDelete(t *testing.T, c *cache, path string) {
	a := c.do(t, "DELETE", path, nil, bearer(deleteToken))
	a.wantStatus(t, http.StatusOK)
	if strings.TrimSpace(string(a.Body)) != "OK" {
		t.Errorf("%s: body %q, want OK", a.Request, a.Body)
	}
	c.get(t, path).wantStatus(t, http.StatusNotFound)
	c.do(t, "DELETE", path, nil, bearer(deleteToken)).wantRefusal(t, http.StatusNotFound, "")
}

func testOtherPaths(t *testing.T, c *cache) {
	for _, path := range []string{
		"/index.html",
		"/" + someHash,
		"/" + someHash[1:] + ".narinfo",
		"/" + strings.Repeat("e", 32) + ".narinfo",
		"/" + strings.ToUpper(someHash) + ".narinfo",
		"/" + someHash + ".narinfo/",
		"/nar/" + someHash + ".narinfo",
		"/nar/../" + someHash + ".narinfo",
		"/nar/" + someHash + ".nar",
		"/nar/" + strings.Repeat("0", 52) + ".nar.exe",
		"/nar/",
	} {
		c.get(t, path).wantRefusal(t, http.StatusNotFound, "")
		c.head(t, path).wantStatus(t, http.StatusNotFound)
		c.put(t, path, []byte("x")).wantRefusal(t, http.StatusBadRequest, "")
		c.do(t, "DELETE", path, nil, bearer(deleteToken)).wantRefusal(t, http.StatusBadRequest, "")
	}
}

func testOtherMethods(t *testing.T, c *cache) {
	for path, allow := range map[string]string{
		"/" + someHash + ".narinfo":                "GET, HEAD, PUT, DELETE",
		"/nar/" + strings.Repeat("0", 52) + ".nar": "GET, HEAD, PUT, DELETE",
		"/" + someHash + ".ls":                     "GET, HEAD, PUT",
		"/log/" + someHash + "-hello-1.0.drv":      "GET, HEAD, PUT",
		"/nix-cache-info":                          "GET, HEAD",
		"/health":                                  "GET, HEAD",
		"/health/ready":                            "GET, HEAD",
	} {
		for _, method := range []string{"POST", "PATCH", "OPTIONS"} {
			a := c.do(t, method, path, nil, basic(uploadToken))
			a.wantRefusal(t, http.StatusMethodNotAllowed, "")
			a.wantHeader(t, "Allow", allow)
		}
	}
}

func testEncodedPath(t *testing.T, c *cache) {
	p := signedPackage("percent-encoded", 1000)
	c.upload(t, p)
	encoded := fmt.Sprintf("/%%%02X%s", narinfoPath(p)[1], narinfoPath(p)[2:])
	c.get(t, encoded).wantBody(t, p.Text())
	encoded = "/%6Ear" + strings.TrimPrefix(narPath(p), "/nar")
	c.get(t, encoded).wantBody(t, p.File)
}

// TestReadyTellsThatTheOriginIsDown is the other half of /health/ready.
func TestReadyTellsThatTheOriginIsDown(t *testing.T) {
	o := r2Origin(t)
	c := startCache(t, o)
	o.bucket.setFault(refuse)
	a := c.awaitStatus(t, "/health/ready", http.StatusServiceUnavailable)
	a.wantHeader(t, "Cache-Control", "no-store")
	var health struct{ Status, Detail string }
	if err := json.Unmarshal(a.Body, &health); err != nil || health.Status == "ok" || health.Detail == "" {
		t.Errorf("%s: %q (%v)", a.Request, a.Body, err)
	}
	c.get(t, "/health").wantStatus(t, http.StatusOK)
}

// TestDefaults is the contract's "with no block at all it works".
func TestDefaults(t *testing.T) {
	c := startCaddy(t, site("http://localhost", "nix_cache"))
	reader := &cache{caddy: c, base: c.HTTP, http: c.client(t)}
	reader.get(t, "/nix-cache-info").wantStatus(t, http.StatusOK)
	p := nixtest.NewPackage("defaults", 100)
	reader.get(t, narinfoPath(p)).wantStatus(t, http.StatusNotFound)
	reader.put(t, narPath(p), p.File).wantRefusal(t, http.StatusServiceUnavailable, "Uploads disabled")
}
