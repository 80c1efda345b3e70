package integration

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// admin sends a request to Caddy's admin endpoint and returns the answer's body.
func (c *caddy) admin(tb testing.TB, method, path, contentType, body string) string {
	tb.Helper()
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", c.dir+"/admin.sock")
	}}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(tb.Context(), method, "http://admin"+path, strings.NewReader(body))
	if err != nil {
		tb.Fatal(err)
	}
	req.Header.Set("Content-Type", contentType)
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		tb.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		tb.Fatalf("admin %s: status %d, %v; %s", path, resp.StatusCode, err, text)
	}
	return string(text)
}

// reload gives a running Caddy other sites, as `caddy reload` does.
func (c *caddy) reload(tb testing.TB, sites string) {
	tb.Helper()
	c.admin(tb, "POST", "/load", "text/caddyfile", globalOptions+sites)
}

// awaitPriority returns once the cache answers with this priority. A request
// that meets the old server just when it closes may find no answer, as with any
// reload of Caddy.
func (c *cache) awaitPriority(tb testing.TB, priority string) {
	tb.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		a, err := c.try(tb, "GET", "/nix-cache-info", nil)
		if err == nil && strings.Contains(string(a.Body), "Priority: "+priority+"\n") {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			tb.Fatalf("the reload has no effect: %s, %v", a.Body, err)
		}
	}
}

// metric returns the value of a sample, labels in the order of their names; 0
// if there is none.
func (c *caddy) metric(tb testing.TB, name, labels string) float64 {
	tb.Helper()
	sample := fmt.Sprintf("caddy_nix_cache_%s{%s} ", name, labels)
	lines := bufio.NewScanner(strings.NewReader(c.admin(tb, "GET", "/metrics", "", "")))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if text, ok := strings.CutPrefix(lines.Text(), sample); ok {
			value, err := strconv.ParseFloat(text, 64)
			if err != nil {
				tb.Fatal(err)
			}
			return value
		}
	}
	return 0
}

func (c *caddy) wantMetric(tb testing.TB, name, labels string, want float64) {
	tb.Helper()
	if got := c.metric(tb, name, labels); got != want {
		tb.Errorf("metric %s{%s} is %v, want %v", name, labels, got, want)
	}
}

// A reload takes effect, and keeps the tiers, what was found absent, and the
// counters.
func TestReloadKeepsTheCache(t *testing.T) {
	o := r2Origin(t)
	p, missing := signedPackage("reload", 3_000_000), signedPackage("missing", 100)
	o.lay(t, p)
	c := startCache(t, o)
	c.getUntil(t, narinfoPath(p), memoryHit)
	c.getUntil(t, narPath(p), diskHit)
	c.get(t, narinfoPath(missing)).wantStatus(t, http.StatusNotFound)
	hits := c.metric(t, "lookups_total", `cache="nix-cache",kind="nar",method="GET",result="disk"`)
	if hits == 0 {
		t.Error("the hits on disk are not counted")
	}
	o.bucket.take()

	c.reload(t, site("http://localhost", cacheDirective(o, "priority 7", "disk "+c.dir+"/data/caddy/nix-cache/tier 2GiB")))
	c.awaitPriority(t, "7")
	c.get(t, narinfoPath(p)).wantHeader(t, "Cache-Status", memoryHit)
	nar := c.get(t, narPath(p))
	nar.wantHeader(t, "Cache-Status", diskHit)
	nar.wantBody(t, p.File)
	c.get(t, narinfoPath(missing)).wantHeader(t, "Cache-Status", negativeHit)
	if requests := o.bucket.take(); len(requests) > 0 {
		t.Errorf("requests to the bucket after the reload: %v", requests)
	}
	c.wantMetric(t, "lookups_total", `cache="nix-cache",kind="nar",method="GET",result="disk"`, hits+1)
	c.wantMetric(t, "tier_limit_bytes", `cache="nix-cache",tier="disk"`, 2<<30)
}

// A reload while a NAR is on its way neither breaks it nor fetches it twice.
func TestReloadDuringAFill(t *testing.T) {
	o := r2Origin(t)
	p := signedPackage("reload-during-fill", 5_000_000)
	o.lay(t, p)
	c := startCache(t, o)
	release := make(chan struct{})
	reached := make(chan struct{}, 100)
	o.bucket.setFault(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if r.Header.Get("Range") != "bytes=0-1048575" {
			reached <- struct{}{}
			<-release
		}
		next.ServeHTTP(w, r)
	})
	answers := make(chan answer, 2)
	get := func() {
		a, err := c.try(t, "GET", narPath(p), nil)
		if err != nil {
			t.Errorf("%s: %v", a.Request, err)
		}
		answers <- a
	}
	go get()
	<-reached
	c.reload(t, site("http://localhost", cacheDirective(o, "priority 7")))
	c.awaitPriority(t, "7")
	go get()
	close(release)
	for range 2 {
		a := <-answers
		a.wantStatus(t, http.StatusOK)
		a.wantBody(t, p.File)
	}
	if requests := o.bucket.take(); len(requests) != 2 {
		t.Errorf("requests to the bucket: %v; want the two parts once each", requests)
	}
}

// A stop in order spares the next start the checking of what is on disk.
func TestStopInOrder(t *testing.T) {
	o := r2Origin(t)
	p := signedPackage("stop", 100_000)
	o.lay(t, p)
	c := startCache(t, o)
	c.getUntil(t, narPath(p), diskHit)
	mark := c.dir + "/data/caddy/nix-cache/tier/clean"
	if _, err := os.Stat(mark); err == nil {
		t.Error("the mark of a stop in order is there while Caddy runs")
	}
	c.stop(t)
	if _, err := os.Stat(mark); err != nil {
		t.Error(err)
	}
}

func TestMetrics(t *testing.T) {
	o := r2Origin(t)
	c := startCache(t, o)
	p := signedPackage("metrics", 100_000)
	c.upload(t, p)
	c.put(t, narPath(p), []byte("not it")).wantStatus(t, http.StatusUnprocessableEntity)
	c.do(t, "PUT", narPath(p), nil, bearer("wrong")).wantStatus(t, http.StatusForbidden)
	c.get(t, narPath(p)).wantHeader(t, "Cache-Status", diskHit)
	cold := signedPackage("metrics-cold", 100_000)
	o.lay(t, cold)
	c.getUntil(t, narPath(cold), diskHit)
	joined := c.metric(t, "lookups_total", `cache="nix-cache",kind="nar",method="GET",result="collapsed"`)
	for _, want := range []struct {
		name, labels string
		value        float64
	}{
		{"uploads_total", `cache="nix-cache",kind="nar",outcome="stored",reason=""`, 1},
		{"uploads_total", `cache="nix-cache",kind="narinfo",outcome="stored",reason=""`, 1},
		{"uploads_total", `cache="nix-cache",kind="nar",outcome="rejected",reason="mismatch"`, 1},
		{"auth_failures_total", `cache="nix-cache",reason="unknown"`, 1},
		{"requests_total", `cache="nix-cache",kind="nar",method="PUT",status="201"`, 1},
		{"lookups_total", `cache="nix-cache",kind="nar",method="GET",result="miss"`, 1},
		{"fills_total", `cache="nix-cache",outcome="stored"`, 1},
		{"fills_in_flight", `cache="nix-cache"`, 0},
		{"served_bytes_total", `cache="nix-cache",kind="nar",source="fill"`, float64(len(cold.File)) * (1 + joined)},
		{"origin_requests_total", `cache="nix-cache",class="a",operation="put",outcome="ok"`, 2},
		{"served_bytes_total", `cache="nix-cache",kind="nar",source="disk"`, float64(len(p.File) + len(cold.File))},
		{"tier_entries", `cache="nix-cache",tier="disk"`, 2},
	} {
		c.wantMetric(t, want.name, want.labels, want.value)
	}
}
