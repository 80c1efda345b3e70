package integration

import (
	"net/http"
	"strings"
	"testing"
)

// TestMetricsOfOperators: each is there once there was something to count.
func TestMetricsOfOperators(t *testing.T) {
	t.Parallel()
	o := r2Origin(t)
	laid, pushed, absent := signedPackage("laid", 3_000_000), signedPackage("pushed", 2_000_000), signedPackage("absent", 100)
	o.lay(t, laid)
	c := startCache(t, o, `name "my cache"`)
	c.logged(t, "ready: the origin answers")
	memory := `"my cache"; hit; detail=memory`
	c.getUntil(t, narinfoPath(laid), memory)
	c.head(t, narinfoPath(laid)).wantHeader(t, "Cache-Status", memory)
	c.getUntil(t, narPath(laid), `"my cache"; hit; detail=disk`)
	c.get(t, narinfoPath(absent)).wantStatus(t, http.StatusNotFound)
	c.get(t, narinfoPath(absent)).wantStatus(t, http.StatusNotFound)
	c.head(t, narPath(absent)).wantStatus(t, http.StatusNotFound)
	c.upload(t, pushed)
	const name = `cache="my cache"`
	for _, want := range []struct {
		name, labels string
		value        float64
	}{
		{"lookups_total", name + `,kind="narinfo",method="HEAD",result="memory"`, 1},
		{"lookups_total", name + `,kind="narinfo",method="GET",result="absent"`, 1},
		{"lookups_total", name + `,kind="narinfo",method="GET",result="negative"`, 1},
		{"lookups_total", name + `,kind="nar",method="HEAD",result="absent"`, 1},
		{"request_duration_seconds_count", name + `,kind="narinfo",result="absent"`, 1},
		{"request_duration_seconds_count", name + `,kind="nar",result="miss"`, 1},
		{"fill_duration_seconds_count", name + `,outcome="stored"`, 1},
		{"fill_bytes_total", name + `,outcome="stored"`, float64(len(laid.File))},
		{"upload_duration_seconds_count", name + `,kind="nar",outcome="stored"`, 1},
		{"upload_bytes_total", name + `,kind="nar",outcome="stored"`, float64(len(pushed.File))},
		{"upload_bytes_total", name + `,kind="narinfo",outcome="stored"`, float64(len(pushed.Text()))},
		{"origin_up", name, 1},
		{"disk_tier_open", name, 1},
	} {
		c.wantMetric(t, want.name, want.labels, want.value)
	}
	page := c.admin(t, "GET", "/metrics", "", "")
	for _, want := range []string{"origin_requests_waiting{" + name + "} 0\n", `build_info{goversion="go`} {
		if !strings.Contains(page, "caddy_nix_cache_"+want) {
			t.Errorf("the metrics have no %s", want)
		}
	}
	line := c.logged(t, `"uploaded"`)
	if line["client"] != "127.0.0.1" || line["bytes"] != float64(len(pushed.File)) || line["duration"] == nil {
		t.Errorf("the line of an upload is %v", line)
	}
	c.do(t, "PUT", narPath(pushed), nil).wantRefusal(t, http.StatusUnauthorized, "netrc")
}
