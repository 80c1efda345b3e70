package caddymodule

import (
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stevedores-org/nix-cache/caddymodule/cache"
	"github.com/stevedores-org/nix-cache/caddymodule/origin/dir"
)

const hotNARInfo = "/26xbg1ndr7hbcncrlf9nhx5is2b25d13.narinfo"

// hotHandler serves one narinfo, which is in memory.
func hotHandler(tb testing.TB) *Handler {
	tb.Helper()
	root := tb.TempDir()
	text := strings.Repeat("Key: a line of some length, as a narinfo has\n", 20)
	if err := os.WriteFile(filepath.Join(root, hotNARInfo), []byte(text), 0o600); err != nil {
		tb.Fatal(err)
	}
	c := cache.New("", cache.Limits{Memory: 1 << 20}, slog.New(slog.DiscardHandler))
	tb.Cleanup(func() { c.Close() })
	h := &Handler{
		narinfoControl: narinfoControl("public", time.Hour),
		metrics:        newHandlerMetrics("bench", new(cache.Counters)),
		statuses:       newCacheStatuses(defaultName),
		failures:       &failureLog{log: slog.New(slog.DiscardHandler)},
		missing:        newMissingNARs(),
		refused:        new(refusals),
	}
	h.files = c.Namespace("bench", dir.New(root), cache.Policy{}, h.metrics.fills, slog.New(slog.DiscardHandler))
	for {
		w := &discardWriter{header: http.Header{}}
		serveHot(tb, h, w, hotRequest(tb, http.MethodGet))
		if w.header.Get("Cache-Status") == "nix-cache; hit; detail=memory" {
			return h
		}
	}
}

func hotRequest(tb testing.TB, method string) *http.Request {
	tb.Helper()
	r, err := http.NewRequestWithContext(tb.Context(), method, hotNARInfo, nil)
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

func serveHot(tb testing.TB, h *Handler, w *discardWriter, r *http.Request) {
	if err := h.ServeHTTP(w, r, nil); err != nil {
		tb.Fatal(err)
	}
}

// discardWriter keeps the header and the status of an answer.
type discardWriter struct {
	header http.Header
	status int
}

func (w *discardWriter) Header() http.Header         { return w.header }
func (w *discardWriter) WriteHeader(status int)      { w.status = status }
func (w *discardWriter) Write(p []byte) (int, error) { return len(p), nil }

func BenchmarkHotNARInfo(b *testing.B) {
	h := hotHandler(b)
	tag := &discardWriter{header: http.Header{}}
	serveHot(b, h, tag, hotRequest(b, http.MethodHead))
	fresh := hotRequest(b, http.MethodGet)
	fresh.Header.Set("If-None-Match", tag.header.Get("ETag"))
	for _, kind := range []struct {
		name    string
		request *http.Request
		status  int
	}{
		{"GET", hotRequest(b, http.MethodGet), http.StatusOK},
		{"HEAD", hotRequest(b, http.MethodHead), http.StatusOK},
		{"304", fresh, http.StatusNotModified},
	} {
		b.Run(kind.name, func(b *testing.B) {
			b.ReportAllocs()
			w := &discardWriter{}
			for b.Loop() {
				w.header = make(http.Header, 8)
				serveHot(b, h, w, kind.request)
			}
			if w.status != kind.status {
				b.Fatalf("answered %d, want %d", w.status, kind.status)
			}
		})
	}
}
