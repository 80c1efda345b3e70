package caddymodule

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// loaded has Caddy run a config until the test ends.
func loaded(t *testing.T, config []byte) {
	t.Helper()
	if err := caddy.Load(config, true); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := caddy.Stop(); err != nil {
			t.Error(err)
		}
	})
}

// TestMetricsOfCachesOfOneName: they are added up, and the rest of the page is
// there too.
func TestMetricsOfCachesOfOneName(t *testing.T) {
	newDataDir(t)
	handler := func(name string) string {
		return fmt.Sprintf(`{"name": %q, "memory": "1MiB", "origin": {"dir": {"path": %q}}}`, name, t.TempDir())
	}
	loaded(t, server(handler("twice"), handler("twice"), handler("once")))
	registry := prometheus.NewPedanticRegistry()
	if err := metrics.register(registry); err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	promhttp.HandlerFor(registry, promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", "/", nil))
	page := w.Body.String()
	if w.Code != http.StatusOK {
		t.Fatalf("status %d: %s", w.Code, page)
	}
	for name, limit := range map[string]string{"once": "1.048576e+06", "twice": "2.097152e+06"} {
		if want := fmt.Sprintf("caddy_nix_cache_tier_limit_bytes{cache=%q,tier=\"memory\"} %s\n", name, limit); !strings.Contains(page, want) {
			t.Errorf("there is no %s in %s", want, page)
		}
	}
}
