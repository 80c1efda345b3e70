package caddymodule

import (
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/stevedores-org/nix-cache/caddymodule/cache"
	"github.com/stevedores-org/nix-cache/caddymodule/nix/nixtest"
	"github.com/stevedores-org/nix-cache/caddymodule/origin/origintest"
)

// passingHandler serves one NAR straight from an origin, since there is no tier
// to keep it, and returns its path.
func passingHandler(t *testing.T) (h *Handler, m *origintest.Memory, path string, body []byte) {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	c := cache.New("", cache.Limits{Memory: 1 << 20}, log)
	t.Cleanup(func() { c.Close() })
	p := nixtest.NewPackage("passing", 100_000)
	path = p.NARInfo.NARPath().String()
	m = origintest.NewMemory()
	m.Put(path, p.File)
	h = &Handler{metrics: newHandlerMetrics("passing", new(cache.Counters)), log: log}
	h.files = c.Namespace("passing", m, cache.Policy{}, h.metrics.fills, log)
	return h, m, "/" + path, p.File
}

// everyOther returns a Range of n single bytes.
func everyOther(n int) string {
	ranges := make([]string, n)
	for i := range ranges {
		at := strconv.Itoa(2 * i)
		ranges[i] = at + "-" + at
	}
	return "bytes=" + strings.Join(ranges, ",")
}

// TestManyRanges are not worth a request to the origin each.
func TestManyRanges(t *testing.T) {
	h, m, path, body := passingHandler(t)
	for _, test := range []struct{ ranges, status int }{
		{2, http.StatusPartialContent},
		{maxRanges, http.StatusPartialContent},
		{maxRanges + 1, http.StatusOK},
		{20_000, http.StatusOK},
	} {
		m.ResetOps()
		w := ask(t, h, "", "GET", path, "Range", everyOther(test.ranges))
		if w.Code != test.status {
			t.Errorf("%d ranges: status %d, want %d", test.ranges, w.Code, test.status)
		}
		if whole := w.Body.String() == string(body); whole != (test.status == http.StatusOK) {
			t.Errorf("%d ranges: %d bytes of %d", test.ranges, w.Body.Len(), len(body))
		}
		if opens := m.Ops("open"); opens > maxRanges+1 {
			t.Errorf("%d ranges: %d requests to the origin", test.ranges, opens)
		}
		head := ask(t, h, "", "HEAD", path, "Range", everyOther(test.ranges))
		if head.Code != w.Code || head.Header().Get("Content-Length") != w.Header().Get("Content-Length") {
			t.Errorf("%d ranges: HEAD is answered with %d %v, GET with %d %v", test.ranges, head.Code, head.Header(), w.Code, w.Header())
		}
	}
}
