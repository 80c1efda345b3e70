package integration

import (
	"fmt"
	"net/http"
	"testing"
	"time"
)

const staleHit = "nix-cache; hit; detail=stale"

// TestOutage: what is cached is served, the rest is refused at once, and the end
// of the outage is noticed.
func TestOutage(t *testing.T) {
	t.Parallel()
	o := r2Origin(t)
	cached, missing, cold := signedPackage("cached", 2_000_000), signedPackage("missing", 100), signedPackage("cold", 1000)
	o.lay(t, cached)
	o.lay(t, cold)
	c := startCache(t, o, "negative_ttl 1ns")
	c.getUntil(t, narinfoPath(cached), memoryHit)
	c.getUntil(t, narPath(cached), diskHit)
	c.get(t, narinfoPath(missing)).wantStatus(t, http.StatusNotFound)

	o.bucket.setFault(refuse)
	for i := range 3 { // until the cache knows
		c.get(t, narinfoPath(signedPackage(fmt.Sprint("asked-for", i), 1))).wantRefusal(t, http.StatusServiceUnavailable, "")
	}
	o.bucket.take()
	begun := time.Now()
	const more = 50
	for i := range more {
		p := signedPackage(fmt.Sprint("asked-for-later", i), 1)
		c.get(t, narinfoPath(p)).wantRefusal(t, http.StatusServiceUnavailable, "try again later")
		c.get(t, narPath(p)).wantHeader(t, "Retry-After", "5")
	}
	// One request may go through each second, and is repeated a few times.
	if most := 4 * (1 + int(time.Since(begun)/time.Second)); len(o.bucket.take()) > most {
		t.Errorf("a dead bucket was asked more than %d times for %d files", most, 2*more)
	}
	c.get(t, narinfoPath(cached)).wantHeader(t, "Cache-Status", memoryHit)
	nar := c.get(t, narPath(cached))
	nar.wantHeader(t, "Cache-Status", diskHit)
	nar.wantBody(t, cached.File)
	stale := c.get(t, narinfoPath(missing))
	stale.wantStatus(t, http.StatusNotFound)
	stale.wantHeader(t, "Cache-Status", staleHit)
	c.head(t, narinfoPath(missing)).wantStatus(t, http.StatusNotFound)
	c.awaitStatus(t, "/health/ready", http.StatusServiceUnavailable)
	c.get(t, "/health").wantStatus(t, http.StatusOK)

	if lines := c.ownLines("error"); len(lines) > 2 { // a request, and that this is an outage
		t.Errorf("the outage is told in %d lines: %q", len(lines), lines)
	}

	o.bucket.setFault(nil)
	c.awaitStatus(t, narPath(cold), http.StatusOK)
	c.get(t, narinfoPath(cold)).wantBody(t, cold.Text())
	c.awaitStatus(t, "/health/ready", http.StatusOK)
}

// TestOutageAnswersAbsent: where the operator wants it, a build goes on without
// the cache. The absence is not remembered here.
func TestOutageAnswersAbsent(t *testing.T) {
	t.Parallel()
	o := r2Origin(t)
	cold := signedPackage("cold", 1000)
	o.lay(t, cold)
	c := startCache(t, o, "outage_answers absent")
	o.bucket.setFault(refuse)
	for range 5 { // before and after the cache knows
		for _, method := range []string{"GET", "HEAD"} {
			a := c.do(t, method, narinfoPath(cold), nil)
			a.wantStatus(t, http.StatusNotFound)
			a.wantHeader(t, "Cache-Status", "nix-cache; fwd=miss; detail=unavailable")
			a.wantHeader(t, "Cache-Control", "no-store")
		}
		c.get(t, narPath(cold)).wantStatus(t, http.StatusServiceUnavailable)
	}
	c.wantMetric(t, "lookups_total", `cache="nix-cache",kind="narinfo",method="HEAD",result="unavailable"`, 5)
	c.put(t, narPath(cold), cold.File).wantStatus(t, http.StatusBadGateway)
	o.bucket.setFault(nil)
	c.awaitStatus(t, narinfoPath(cold), http.StatusOK).wantBody(t, cold.Text())
}

// TestBuildInAnOutage: with `absent` a build goes on without the cache; else it
// ends, as long as the client does not say otherwise.
func TestBuildInAnOutage(t *testing.T) {
	t.Parallel()
	o := r2Origin(t)
	ends, goesOn := startCache(t, o), startCache(t, o, "outage_answers absent")
	o.bucket.setFault(refuse)
	forEachNix(t, func(t *testing.T, flavor nixFlavor) {
		n := newNixClient(t, flavor)
		writeFile(t, n.dir+"/closure.nix", closureNix)
		build := func(c *cache) (string, error) {
			return n.try(t, "nix-build", "--no-out-link", "--option", "substituters", c.HTTP, "--argstr", "nonce", nonce(t), "/mnt/closure.nix")
		}
		if out, err := build(ends); err == nil {
			t.Errorf("the build does not need the cache: %s", out)
		}
		if out, err := build(goesOn); err != nil {
			t.Errorf("the build does not go on: %v: %s", err, out)
		}
	})
}

// awaitStatus repeats a GET until it has this status, and returns its answer.
func (c *cache) awaitStatus(tb testing.TB, path string, status int) answer {
	tb.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		a := c.get(tb, path)
		if a.Status == status {
			return a
		}
		select {
		case <-tick.C:
		case <-deadline:
			tb.Fatalf("GET %s does not become %d", path, status)
		}
	}
}

func TestVerifyReads(t *testing.T) {
	t.Parallel()
	o := r2Origin(t)
	good, evil := signedPackage("good", 1000), signedPackage("evil", 1000)
	o.lay(t, good)
	o.lay(t, evil)
	evil.NARInfo.Signatures = nil
	o.put(t, narinfoPath(evil)[1:], evil.Text())
	c := startCache(t, o, "verify_reads")
	c.get(t, narinfoPath(good)).wantBody(t, good.Text())
	for range 2 {
		c.get(t, narinfoPath(evil)).wantRefusal(t, http.StatusBadGateway, "damaged")
		c.head(t, narinfoPath(evil)).wantStatus(t, http.StatusBadGateway)
	}
}
