package caddymodule

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"github.com/stevedores-org/nix-cache/caddymodule/cache"
	"github.com/stevedores-org/nix-cache/caddymodule/nix"
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
	h = &Handler{metrics: newHandlerMetrics("passing", new(cache.Counters)), statuses: newCacheStatuses(defaultName), log: log, failures: &failureLog{log: log}, refused: new(refusals), missing: newMissingNARs()}
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

// TestInvalidRange: what is refused whatever the file is costs no reading of it.
func TestInvalidRange(t *testing.T) {
	h, m, path, body := passingHandler(t)
	tag := ask(t, h, "", "HEAD", path).Header().Get("Etag")
	m.ResetOps()
	for _, field := range []string{"bytes=-0-", "bytes=5-2", "nonsense"} {
		w := ask(t, h, "", "GET", path, "Range", field)
		if w.Code != http.StatusRequestedRangeNotSatisfiable || w.Header().Get("Content-Range") != fmt.Sprintf("bytes */%d", len(body)) {
			t.Errorf("%s: status %d, %v", field, w.Code, w.Header())
		}
		wantFileHeaders(t, w, tag)
	}
	if opens := m.Ops("open"); opens > 0 {
		t.Errorf("%d requests to the origin for what was refused", opens)
	}
	for ifRange, want := range map[string]int{tag: http.StatusRequestedRangeNotSatisfiable, `"other"`: http.StatusOK} {
		w := ask(t, h, "", "GET", path, "Range", "bytes=-0-", "If-Range", ifRange)
		if w.Code != want || want == http.StatusOK && w.Body.String() != string(body) {
			t.Errorf("If-Range %s: status %d and %d bytes, want %d", ifRange, w.Code, w.Body.Len(), want)
		}
	}
}

// TestConditions: GET and HEAD agree on each, and what refuses tells nothing
// that a proxy could keep.
func TestConditions(t *testing.T) {
	h, _, path, _ := passingHandler(t)
	tag := ask(t, h, "", "HEAD", path).Header().Get("Etag")
	for _, test := range []struct {
		header []string
		want   int
	}{
		{[]string{"If-None-Match", tag}, http.StatusNotModified},
		{[]string{"If-None-Match", "W/" + tag}, http.StatusNotModified},
		{[]string{"If-None-Match", "*"}, http.StatusNotModified},
		{[]string{"If-None-Match", `unquoted, ` + tag}, http.StatusNotModified},
		{[]string{"If-None-Match", `"a b", ` + tag}, http.StatusNotModified},
		{[]string{"If-None-Match", `"other"` + tag}, http.StatusNotModified},
		{[]string{"If-None-Match", `"other"`}, http.StatusOK},
		{[]string{"If-None-Match", `unquoted`}, http.StatusOK},
		{[]string{"If-None-Match", `"other"`, "Range", "bytes=999999-"}, http.StatusRequestedRangeNotSatisfiable},
		{[]string{"If-None-Match", tag, "Range", "bytes=5-"}, http.StatusNotModified},
		{[]string{"If-Match", tag}, http.StatusOK},
		{[]string{"If-Match", `"other"`}, http.StatusPreconditionFailed},
		{[]string{"If-Match", `"other"`, "If-None-Match", tag}, http.StatusPreconditionFailed},
		{[]string{"If-Match", tag, "If-None-Match", tag}, http.StatusNotModified},
		{[]string{"If-Match", tag, "If-None-Match", `unquoted, ` + tag}, http.StatusOK},
		{[]string{"Range", "bytes=999999-"}, http.StatusRequestedRangeNotSatisfiable},
		{[]string{"Range", "nonsense"}, http.StatusRequestedRangeNotSatisfiable},
	} {
		for _, method := range []string{"GET", "HEAD"} {
			w := ask(t, h, "", method, path, test.header...)
			if w.Code != test.want {
				t.Errorf("%s %q: status %d, want %d", method, test.header, w.Code, test.want)
			}
			wantFileHeaders(t, w, tag)
		}
	}
}

// wantFileHeaders wants the headers of the file if the answer is about it, and
// none of them if it is an error.
func wantFileHeaders(t *testing.T, w *httptest.ResponseRecorder, tag string) {
	t.Helper()
	header := w.Header()
	control, etag, contentType := header.Get("Cache-Control"), header.Get("Etag"), header.Get("Content-Type")
	narType := contentTypes[nix.KindNAR]
	switch {
	case w.Code >= http.StatusBadRequest:
		if control != "no-store" || etag != "" || contentType == narType {
			t.Errorf("status %d has the file's headers: %v", w.Code, header)
		}
	case !strings.Contains(control, "immutable") || etag != tag:
		t.Errorf("status %d lacks headers of the file: %v", w.Code, header)
	case (contentType == narType) != (w.Code == http.StatusOK):
		t.Errorf("status %d: Content-Type is %q", w.Code, contentType)
	}
}
