package caddymodule

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	_ "github.com/caddyserver/caddy/v2/modules/metrics" // the admin endpoint's /metrics
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

// TestMetricsAfterAFailedReload: the page is of the config that failed, but the
// caches go on.
func TestMetricsAfterAFailedReload(t *testing.T) {
	newDataDir(t)
	socket := filepath.Join(t.TempDir(), "s")
	config := strings.Replace(string(server(`{"name": "survivor"}`)), `"disabled": true`, `"listen": "unix/`+socket+`"`, 1)
	loaded(t, []byte(config))
	wantOnPage(t, socket, `tier_limit_bytes{cache="survivor",tier="memory"}`)
	if err := caddy.Load([]byte(strings.Replace(config, `"nix_cache"`, `"no_such_handler"`, 1)), true); err == nil {
		t.Fatal("the broken config was loaded")
	}
	wantOnPage(t, socket, `tier_limit_bytes{cache="survivor",tier="memory"}`)
	loaded(t, server()) // without an admin endpoint, which Stop would leave
}

// wantOnPage looks for a series on the page of an admin endpoint.
func wantOnPage(t *testing.T, socket, series string) {
	t.Helper()
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}
	r, err := http.NewRequestWithContext(t.Context(), "GET", "http://localhost/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := transport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	page, err := io.ReadAll(answer.Body)
	if err != nil || !strings.Contains(string(page), metricsPrefix+series) {
		t.Errorf("there is no %s on the page, of %d bytes (%v)", series, len(page), err)
	}
}
