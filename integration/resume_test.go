package integration

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"
)

// cutter is a proxy that breaks the connection in the middle of the first body
// longer than cutAfter, and notes what became of ranges.
type cutter struct {
	url string
	mu  struct {
		sync.Mutex
		cut      string   // the path of the body that was cut
		resumed  []string // Content-Range of each 206 for that path
		statuses []int    // of every answer to a Range request
	}
}

const cutAfter = 100_000

func startCutter(tb testing.TB, target string) *cutter {
	tb.Helper()
	to, err := url.Parse(target)
	if err != nil {
		tb.Fatal(err)
	}
	c := new(cutter)
	server := httptest.NewServer(&httputil.ReverseProxy{
		Rewrite:        func(r *httputil.ProxyRequest) { r.SetURL(to) },
		ModifyResponse: c.response,
		FlushInterval:  -1,
		ErrorLog:       nil,
	})
	tb.Cleanup(server.Close)
	c.url = server.URL
	return c
}

func (c *cutter) response(r *http.Response) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r.Request.Header.Get("Range") != "" {
		c.mu.statuses = append(c.mu.statuses, r.StatusCode)
		if r.Request.URL.Path == c.mu.cut {
			c.mu.resumed = append(c.mu.resumed, r.Header.Get("Content-Range"))
		}
		return nil
	}
	if c.mu.cut == "" && r.Request.Method == http.MethodGet && r.ContentLength > cutAfter {
		c.mu.cut = r.Request.URL.Path
		r.Body = &cutBody{ReadCloser: r.Body, left: cutAfter}
	}
	return nil
}

// cutBody ends with an error, upon which the proxy drops its client.
type cutBody struct {
	io.ReadCloser
	left int
}

func (b *cutBody) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, errors.New("cut")
	}
	n, err := b.ReadCloser.Read(p[:min(len(p), b.left)])
	b.left -= n
	return n, err
}

// TestCutTransferIsResumed: a client whose NAR breaks off asks for the rest.
func TestCutTransferIsResumed(t *testing.T) {
	t.Parallel()
	forEachOrigin(t, func(t *testing.T, o *testOrigin) {
		c := startCaddy(t, site("http://localhost", cacheDirective(o)))
		forEachNix(t, func(t *testing.T, flavor nixFlavor) {
			builder, user := newNixClient(t, flavor), newNixClient(t, flavor)
			root := builder.signedClosure(t)
			builder.push(t, withPassword(c.HTTP, uploadToken)+"?compression=none", root)

			cut := startCutter(t, c.HTTP)
			user.pull(t, cut.url, root)
			assertSameClosure(t, builder, user, root)

			cut.mu.Lock()
			defer cut.mu.Unlock()
			if !strings.HasPrefix(cut.mu.cut, "/nar/") {
				t.Fatalf("no NAR was cut (%q)", cut.mu.cut)
			}
			if len(cut.mu.resumed) == 0 {
				t.Errorf("the client did not resume %s", cut.mu.cut)
			}
			for _, status := range cut.mu.statuses {
				if status != http.StatusPartialContent {
					t.Errorf("a Range request was answered with %d", status)
				}
			}
		})
	})
}
