package integration

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestReadyAsksOnceASecond: however many ask, in an outage, too.
func TestReadyAsksOnceASecond(t *testing.T) {
	t.Parallel()
	o := r2Origin(t)
	c := startCache(t, o)
	c.logged(t, "ready: the origin answers")
	ask := func(attempts, status int) {
		t.Helper()
		o.bucket.takeProbes()
		begun := time.Now()
		for range 300 {
			c.get(t, "/health/ready").wantStatus(t, status)
		}
		took := time.Since(begun)
		if got, most := o.bucket.takeProbes(), attempts*(2+int(took/time.Second)); got > most {
			t.Errorf("300 requests for a %d in %v asked the bucket %d times, want %d at most", status, took, got, most)
		}
	}
	ask(1, http.StatusOK)
	o.bucket.setFault(refuse)
	c.awaitStatus(t, "/health/ready", http.StatusServiceUnavailable)
	ask(4, http.StatusServiceUnavailable) // a request without an answer is repeated
	if lines := c.ownLines("error"); len(lines) > 2 {
		t.Errorf("the outage is told %d times: %q", len(lines), lines)
	}
}

// TestReadyTellsTheCause: to anybody, so without names; the log has these.
func TestReadyTellsTheCause(t *testing.T) {
	t.Parallel()
	o := r2Origin(t)
	c := startCache(t, o)
	refusal := func(status int, code string, clock time.Duration) bucketFault {
		return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
			w.Header().Set("Date", time.Now().Add(clock).UTC().Format(http.TimeFormat))
			w.Header().Set("Content-Type", "application/xml")
			w.WriteHeader(status)
			fmt.Fprintf(w, "<?xml version=\"1.0\"?><Error><Code>%s</Code><Message>No.</Message></Error>", code)
		}
	}
	for _, test := range []struct {
		fault  bucketFault
		detail string
	}{
		{refusal(404, "NoSuchBucket", 0), "there is no such bucket"},
		{refusal(403, "InvalidAccessKeyId", 0), "refused the credentials (403 InvalidAccessKeyId); check access_key_id"},
		{refusal(403, "RequestTimeTooSkewed", time.Hour), "this machine's clock is off by 1h0m"},
	} {
		o.bucket.setFault(test.fault)
		detail := c.awaitDetail(t, test.detail)
		c.logged(t, bucketName+" at "+o.bucket.endpoint+": "+strings.TrimPrefix(detail, "the origin can't be used: "))
		for _, secret := range []string{bucketName, strings.TrimPrefix(o.bucket.endpoint, "http://"), o.bucket.accessKey} {
			if strings.Contains(detail, secret) {
				t.Errorf("anybody is told of %s: %s", secret, detail)
			}
		}
	}
	o.bucket.setFault(refuse)
	c.awaitDetail(t, "the origin does not answer")
	c.wantMetric(t, "origin_up", `cache="nix-cache"`, 0)
	o.bucket.setFault(nil)
	c.awaitStatus(t, "/health/ready", http.StatusOK)
	c.wantMetric(t, "origin_up", `cache="nix-cache"`, 1)
}

// awaitDetail returns the detail of an answer that the cache is not ready, once it
// has this text.
func (c *cache) awaitDetail(tb testing.TB, text string) string {
	tb.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		a := c.get(tb, "/health/ready")
		var health struct{ Detail string }
		if err := json.Unmarshal(a.Body, &health); err != nil {
			tb.Fatalf("%s: %q: %v", a.Request, a.Body, err)
		}
		if strings.Contains(health.Detail, text) {
			if a.Status != http.StatusServiceUnavailable {
				tb.Errorf("%s: status %d with %q", a.Request, a.Status, a.Body)
			}
			return health.Detail
		}
		select {
		case <-tick.C:
		case <-deadline:
			tb.Fatalf("%s: the detail stays %q, want %q", a.Request, health.Detail, text)
		}
	}
}

// ownLines returns the lines of the cache's own log that have this level.
func (c *caddy) ownLines(level string) (own []string) {
	lines, _ := c.log.snapshot()
	for _, line := range lines {
		var entry struct{ Level, Logger string }
		if json.Unmarshal([]byte(line), &entry) == nil && entry.Level == level && strings.Contains(entry.Logger, "nix_cache") {
			own = append(own, line)
		}
	}
	return own
}
