package integration

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestAThousandWrongTokens: none gets in, the refusals take bounded time and
// memory, and meanwhile nobody else waits.
func TestAThousandWrongTokens(t *testing.T) {
	o := dirOrigin(t)
	p := signedPackage("wrong-tokens", 1000)
	o.lay(t, p)
	c := startFastCache(t, o, append(privateLines, "name private")...)
	c.get(t, narPath(p), basic(readToken)).wantStatus(t, http.StatusOK)
	before := c.residentNow(t)
	c.resetResidentPeak(t)

	const attempts = 1000
	var answers [attempts]answer
	var attackers sync.WaitGroup
	begin := time.Now()
	for i := range attempts {
		attackers.Go(func() {
			method := []string{"GET", "PUT", "HEAD", "DELETE"}[i%4]
			answers[i], _ = c.try(t, method, narPath(p), nil, basic(wrongToken(i)))
		})
	}
	const rounds = 20
	for range rounds {
		c.get(t, narPath(p), basic(readToken)).wantBody(t, p.File)
		c.get(t, "/nix-cache-info").wantStatus(t, http.StatusOK)
	}
	if took := time.Since(begin); took > rounds*time.Second { // a wrong one takes 2 s
		t.Errorf("%d requests with the right token took %v", rounds, took)
	}
	attackers.Wait()
	if took := time.Since(begin); took > patience {
		t.Errorf("the refusals took %v", took)
	}
	statuses := map[int]int{}
	for _, a := range answers {
		statuses[a.Status]++
		if a.Status == http.StatusServiceUnavailable {
			a.wantHeader(t, "Retry-After", "5")
		}
	}
	if n := statuses[http.StatusForbidden] + statuses[http.StatusServiceUnavailable]; n != attempts || statuses[http.StatusForbidden] < 100 {
		t.Errorf("statuses: %v; want 403, and 503 where too many wait", statuses)
	}
	c.wantMetric(t, "auth_failures_total", `cache="private",reason="unknown"`, float64(statuses[http.StatusForbidden]))
	c.wantMetric(t, "auth_failures_total", `cache="private",reason="throttled"`, float64(statuses[http.StatusServiceUnavailable]))
	if grown := c.residentPeak(t) - before; grown > 200<<20 {
		t.Errorf("the process grew by %d bytes", grown)
	}
	t.Logf("statuses %v in %v", statuses, time.Since(begin))
}

// wrongToken makes near misses and far ones.
func wrongToken(i int) string {
	if i%2 == 0 {
		return readToken[:len(readToken)-1] + fmt.Sprint(i)
	}
	return fmt.Sprint("far", i)
}

// TestForgedAddress: behind a proxy, with what the README says to set, a client
// can't choose the address that its wrong tokens are counted for.
func TestForgedAddress(t *testing.T) {
	t.Parallel()
	options := strings.Replace(globalOptions, "protocols h1 h2", readmeProxies(t), 1)
	o := dirOrigin(t)
	c := caddySetup{Caddyfile: options + site("http://localhost", cacheDirective(o))}.start(t)
	cache := &cache{caddy: c, origin: o, base: c.HTTP, http: c.client(t)}
	const client = "198.51.100.7"
	begin := time.Now()
	const attempts = 14 // of which the last four are answered 0.1, 0.2, 0.3 and 0.4 s later
	for i := range attempts {
		forged := fmt.Sprintf("203.0.113.%d, 127.0.0.1, %s", i, client) // the last one is the proxy's word
		a := cache.do(t, "PUT", narPath(signedPackage("forged", 100)), nil, basic("wrong"), header("X-Forwarded-For", forged))
		a.wantStatus(t, http.StatusForbidden)
	}
	if took := time.Since(begin); took < time.Second {
		t.Errorf("%d wrong tokens took %v: they were not counted together", attempts, took)
	}
	if got := c.logged(t, `"msg":"refused"`)["client"]; got != client {
		t.Errorf("the log has client %v, want %s", got, client)
	}
}

// readmeProxies returns what the README sets of proxies, for one on this machine.
func readmeProxies(t *testing.T) string {
	t.Helper()
	snippets, _ := parseReadme(readFile(t, checkout(t)+"/README.md"))
	for _, s := range snippets {
		_, inside, ok := strings.Cut(s.text, "servers {\n")
		if settings, _, ended := strings.Cut(inside, "}"); ok && ended && strings.Contains(settings, "trusted_proxies") {
			return strings.ReplaceAll(settings, "10.0.0.5/32", "127.0.0.1/32")
		}
	}
	t.Fatal("the README sets no trusted_proxies")
	return ""
}

// TestMissesLookTheSame: a near miss is answered in the same words as a far one.
func TestMissesLookTheSame(t *testing.T) {
	c := startCache(t, dirOrigin(t), privateLines...)
	p := signedPackage("misses", 100)
	far := c.get(t, narPath(p), basic("far"))
	far.wantRefusal(t, http.StatusForbidden, "not known")
	for _, near := range []string{readToken + "x", readToken[:len(readToken)-1], "x" + readToken, " " + readToken} {
		a := c.get(t, narPath(p), basic(near))
		a.wantStatus(t, far.Status)
		a.wantBody(t, far.Body)
		for name := range far.Header {
			if name != "Date" {
				a.wantHeader(t, name, far.Header.Get(name))
			}
		}
	}
}
