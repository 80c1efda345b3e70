package integration

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stevedores-org/nix-cache/caddymodule/nix"
	"github.com/stevedores-org/nix-cache/caddymodule/nix/nixtest"
)

// TestWrites has a subtest for each row of the contract's table of writes.
func TestWrites(t *testing.T) {
	t.Parallel()
	forEachOrigin(t, func(t *testing.T, o *testOrigin) {
		c := startCache(t, o,
			"token reader "+readToken+" read",
			"token deleter "+deleteToken+" upload delete",
			"max_upload_size 1MiB")
		for _, row := range []struct {
			name string
			test func(*testing.T, *cache)
		}{
			{"no or malformed Authorization", testNoAuthorization},
			{"unknown credential", testUnknownCredential},
			{"known credential without that right", testMissingRight},
			{"auth, then the path, then the body", testOrder},
			{"body malformed", testMalformedBody},
			{"no valid signature by a trusted key", testSignatures},
			{"NAR missing for a narinfo", testMissingNAR},
			{"larger than the limit", testTooLarge},
			{"hash of the body is not what its name says", testWrongHash},
			{"size of the body is not what its narinfo says", testWrongSize},
			{"content of the NAR is not what its narinfo says", testWrongContent},
			{"stored", testStored},
			{"content coding is undone", testContentEncoding},
			{"read after write", testReadAfterWrite},
			{"read after delete", testReadAfterDelete},
		} {
			t.Run(row.name, func(t *testing.T) { row.test(t, c) })
		}
	})
	t.Run("no upload credential is configured", testUploadsDisabled)
}

// TestWritesToABrokenOrigin has the two rows that take the origin's patience.
func TestWritesToABrokenOrigin(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name   string
		fault  bucketFault
		status int
	}{
		{"origin failed", refuse, http.StatusBadGateway},
		{"origin timed out", stall, http.StatusGatewayTimeout},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			testWriteToBrokenOrigin(t, row.fault, row.status)
		})
	}
}

// changes are the two requests that need a right.
func (c *cache) changes(t *testing.T, p nixtest.Package, options ...requestOption) []answer {
	t.Helper()
	return []answer{
		c.do(t, "PUT", narPath(p), p.File, options...),
		c.do(t, "PUT", narinfoPath(p), p.Text(), options...),
		c.do(t, "DELETE", narinfoPath(p), nil, options...),
	}
}

func testNoAuthorization(t *testing.T, c *cache) {
	p := signedPackage("no-authorization", 100)
	for _, options := range [][]requestOption{
		nil,
		{header("Authorization", "Basic !!!")},
		{header("Authorization", "Basic "+uploadToken)},
		{header("Authorization", "Bearer")},
		{header("Authorization", "Digest x")},
		{header("Authorization", uploadToken)},
	} {
		for _, a := range c.changes(t, p, options...) {
			a.wantRefusal(t, http.StatusUnauthorized, "")
			challenges := strings.Join(a.Header.Values("WWW-Authenticate"), ", ")
			if !strings.Contains(challenges, `Basic realm="`) || !strings.Contains(challenges, "Bearer") {
				t.Errorf("%s: WWW-Authenticate is %q", a.Request, challenges)
			}
		}
	}
}

func testUnknownCredential(t *testing.T, c *cache) {
	p := signedPackage("unknown-credential", 100)
	for _, wrong := range []string{"wrong", uploadToken[1:], uploadToken + "x", strings.ToUpper(uploadToken)} {
		for _, a := range c.changes(t, p, basic(wrong)) {
			a.wantRefusal(t, http.StatusForbidden, "")
		}
	}
	for _, a := range c.changes(t, p, bearer("wrong")) {
		a.wantRefusal(t, http.StatusForbidden, "")
	}
}

func testMissingRight(t *testing.T, c *cache) {
	p := signedPackage("missing-right", 100)
	for _, a := range c.changes(t, p, basic(readToken)) {
		a.wantRefusal(t, http.StatusForbidden, "")
	}
	c.upload(t, p)
	c.do(t, "DELETE", narinfoPath(p), nil, bearer(uploadToken)).wantRefusal(t, http.StatusForbidden, "")
	c.get(t, narinfoPath(p)).wantStatus(t, http.StatusOK)
}

func testOrder(t *testing.T, c *cache) {
	p := signedPackage("order", 100)
	garbage := []byte("garbage")
	c.do(t, "PUT", "/not-ours", garbage).wantStatus(t, http.StatusUnauthorized)
	c.do(t, "PUT", narinfoPath(p), garbage).wantStatus(t, http.StatusUnauthorized)
	c.put(t, "/not-ours", make([]byte, 2<<20)).wantRefusal(t, http.StatusBadRequest, "")
}

func testMalformedBody(t *testing.T, c *cache) {
	p := signedPackage("malformed", 100)
	other := signedPackage("malformed-other", 100)
	c.put(t, narPath(p), p.File).wantStatus(t, http.StatusCreated)
	text := string(p.Text())
	for name, body := range map[string]string{
		"empty":             "",
		"not a narinfo":     "hello\n",
		"cut":               text[:len(text)/2],
		"of another path":   string(other.Text()),
		"duplicate field":   text + "NarSize: 1\n",
		"another NAR's URL": strings.Replace(text, p.NARInfo.URL(), other.NARInfo.URL(), 1),
		"URL elsewhere":     strings.Replace(text, "URL: ", "URL: http://elsewhere.invalid/", 1),
	} {
		a := c.put(t, narinfoPath(p), []byte(body))
		a.Request += " " + name
		a.wantRefusal(t, http.StatusBadRequest, "")
	}
	c.get(t, narinfoPath(p)).wantStatus(t, http.StatusNotFound)
}

func testSignatures(t *testing.T, c *cache) {
	impostor, err := nix.GeneratePrivateKey(testKey.Name())
	if err != nil {
		t.Fatal(err)
	}
	tampered := signedPackage("tampered", 100)
	tampered.NARInfo.References = []nix.StorePath{nixtest.StorePath("another")}
	for name, p := range map[string]nixtest.Package{
		"unsigned":     nixtest.NewPackage("unsigned", 100),
		"another key":  nixtest.NewPackage("another-key", 100, nixtest.SignedBy(otherKey)),
		"same name":    nixtest.NewPackage("same-name", 100, nixtest.SignedBy(impostor)),
		"other fields": tampered,
	} {
		c.put(t, narPath(p), p.File)
		a := c.put(t, narinfoPath(p), p.Text())
		a.Request += " " + name
		a.wantRefusal(t, http.StatusBadRequest, "sign")
		c.get(t, narinfoPath(p)).wantStatus(t, http.StatusNotFound)
	}
	both := nixtest.NewPackage("two-keys", 100, nixtest.SignedBy(otherKey), nixtest.SignedBy(testKey))
	c.upload(t, both)
}

func testMissingNAR(t *testing.T, c *cache) {
	p := signedPackage("missing-nar", 100)
	c.put(t, narinfoPath(p), p.Text()).wantRefusal(t, http.StatusConflict, "nar")
	c.get(t, narinfoPath(p)).wantStatus(t, http.StatusNotFound)
	c.upload(t, p)
}

func testTooLarge(t *testing.T, c *cache) {
	p := signedPackage("too-large", 1<<20)
	c.put(t, narPath(p), p.File).wantRefusal(t, http.StatusRequestEntityTooLarge, "")
	chunked := func(r *http.Request) { r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(p.File)), -1 }
	c.put(t, narPath(p), nil, chunked).wantRefusal(t, http.StatusRequestEntityTooLarge, "")
	c.put(t, narinfoPath(p), p.File).wantRefusal(t, http.StatusRequestEntityTooLarge, "")
	c.get(t, narPath(p)).wantStatus(t, http.StatusNotFound)
}

func testWrongHash(t *testing.T, c *cache) {
	p := signedPackage("wrong-hash", 1000)
	for _, body := range [][]byte{nil, p.File[:500], append(bytes.Clone(p.File), 0), bytes.ToUpper(p.File)} {
		c.put(t, narPath(p), body).wantRefusal(t, http.StatusUnprocessableEntity, "")
		c.get(t, narPath(p)).wantStatus(t, http.StatusNotFound)
		c.head(t, narPath(p)).wantStatus(t, http.StatusNotFound)
	}
}

// testWrongSize: the narinfo's size is not signed, but it is checked.
func testWrongSize(t *testing.T, c *cache) {
	p := signedPackage("wrong-size", 1000, nixtest.Compressed(nix.CompressionZstd, nixtest.Zstd))
	c.put(t, narPath(p), p.File).wantStatus(t, http.StatusCreated)
	right := p.Text()
	p.NARInfo.FileSize++
	c.put(t, narinfoPath(p), p.Text()).wantRefusal(t, http.StatusUnprocessableEntity, "FileSize")
	c.get(t, narinfoPath(p)).wantStatus(t, http.StatusNotFound)
	c.put(t, narinfoPath(p), right).wantStatus(t, http.StatusCreated)
}

// testWrongContent: what was signed is the NAR as it is decompressed.
func testWrongContent(t *testing.T, c *cache) {
	other := signedPackage("other", 1000)
	for name, compress := range map[string]func([]byte) []byte{
		"another NAR":      func([]byte) []byte { return nixtest.Zstd(other.NAR) },
		"more":             func(nar []byte) []byte { return nixtest.Zstd(append(nar, 0)) },
		"less":             func(nar []byte) []byte { return nixtest.Zstd(nar[:len(nar)-1]) },
		"not compressed":   func(nar []byte) []byte { return nar },
		"cut off":          func(nar []byte) []byte { z := nixtest.Zstd(nar); return z[:len(z)-1] },
		"a bomb of 64 MiB": func([]byte) []byte { return nixtest.Zstd(make([]byte, 64<<20)) },
	} {
		t.Run(name, func(t *testing.T) {
			p := signedPackage("wrong-content", 1000, nixtest.Compressed(nix.CompressionZstd, compress))
			c.put(t, narPath(p), p.File).wantStatus(t, http.StatusCreated)
			c.put(t, narinfoPath(p), p.Text()).wantRefusal(t, http.StatusUnprocessableEntity, "decompress")
			c.get(t, narinfoPath(p)).wantStatus(t, http.StatusNotFound)
		})
	}
}

func testStored(t *testing.T, c *cache) {
	for name, credential := range map[string]requestOption{"basic": basic(uploadToken), "bearer": bearer(uploadToken)} {
		p := signedPackage("stored-"+name, 1000)
		testStoredTwice(t, c, narPath(p), p.File, credential)
		testStoredTwice(t, c, narinfoPath(p), p.Text(), credential)
	}
}

func testStoredTwice(t *testing.T, c *cache, path string, body []byte, credential requestOption) {
	t.Helper()
	for _, status := range []int{http.StatusCreated, http.StatusOK} {
		a := c.do(t, "PUT", path, body, credential)
		a.wantStatus(t, status)
		if strings.TrimSpace(string(a.Body)) != "OK" {
			t.Errorf("%s: body %q, want OK", a.Request, a.Body)
		}
		c.get(t, path).wantBody(t, body)
	}
}

func testContentEncoding(t *testing.T, c *cache) {
	for coding, encode := range nixtest.ContentEncoders {
		t.Run(coding, func(t *testing.T) {
			p := signedPackage("coding-"+coding, 100)
			c.put(t, narPath(p), p.File).wantStatus(t, http.StatusCreated)
			c.put(t, narinfoPath(p), encode(p.Text()), header("Content-Encoding", coding)).wantStatus(t, http.StatusCreated)
			a := c.get(t, narinfoPath(p))
			a.wantBody(t, p.Text())
			a.wantHeader(t, "Content-Encoding", "")
		})
	}
}

func testReadAfterWrite(t *testing.T, c *cache) {
	p := signedPackage("read-after-write", 1000)
	testPutAfterMiss(t, c, narPath(p), p.File)
	testPutAfterMiss(t, c, narinfoPath(p), p.Text())
}

// testPutAfterMiss: an absence that the cache remembers ends with the PUT.
func testPutAfterMiss(t *testing.T, c *cache, path string, body []byte) {
	t.Helper()
	c.get(t, path).wantStatus(t, http.StatusNotFound)
	c.get(t, path).wantStatus(t, http.StatusNotFound)
	c.put(t, path, body).wantStatus(t, http.StatusCreated)
	c.head(t, path).wantStatus(t, http.StatusOK)
	c.get(t, path).wantBody(t, body)
}

func testReadAfterDelete(t *testing.T, c *cache) {
	p := signedPackage("read-after-delete", 1000)
	c.upload(t, p)
	for _, path := range []string{narinfoPath(p), narPath(p)} {
		c.get(t, path).wantStatus(t, http.StatusOK)
		c.get(t, path).wantStatus(t, http.StatusOK)
		c.do(t, "DELETE", path, nil, basic(deleteToken)).wantStatus(t, http.StatusOK)
		c.get(t, path).wantStatus(t, http.StatusNotFound)
		c.head(t, path).wantStatus(t, http.StatusNotFound)
	}
}

func testUploadsDisabled(t *testing.T) {
	for name, directive := range map[string]string{
		"no token":    "nix_cache",
		"empty token": "nix_cache {\n\t\tupload_token \"\"\n\t}",
		"unset token": "nix_cache {\n\t\tupload_token {env.NOT_SET}\n\t}",
	} {
		t.Run(name, func(t *testing.T) {
			running := startCaddy(t, site("http://localhost", directive))
			c := &cache{caddy: running, base: running.HTTP, http: running.client(t)}
			p := signedPackage("uploads-disabled", 100)
			for _, options := range [][]requestOption{nil, {basic("")}, {basic(uploadToken)}, {bearer("x")}} {
				for _, a := range c.changes(t, p, options...) {
					a.wantRefusal(t, http.StatusServiceUnavailable, "Uploads disabled")
				}
			}
			c.get(t, narinfoPath(p)).wantStatus(t, http.StatusNotFound)
		})
	}
}

func testWriteToBrokenOrigin(t *testing.T, fault bucketFault, status int) {
	o := r2Origin(t)
	c := startCache(t, o)
	p := signedPackage("broken-origin", 3_000_000)

	o.bucket.setFault(fault)
	c.put(t, narPath(p), p.File).wantRefusal(t, status, "")
	o.bucket.setFault(nil)
	c.get(t, narPath(p)).wantStatus(t, http.StatusNotFound)
	c.put(t, narPath(p), p.File).wantStatus(t, http.StatusCreated)

	o.bucket.setFault(fault)
	c.put(t, narinfoPath(p), p.Text()).wantRefusal(t, status, "")
	o.bucket.setFault(nil)
	c.put(t, narinfoPath(p), p.Text()).wantStatus(t, http.StatusCreated)
	c.get(t, narinfoPath(p)).wantBody(t, p.Text())
}
