package integration

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stevedores-org/nix-cache/caddymodule/nix/nixtest"
)

// privateLines make a cache private, with readToken and uploadToken's as users.
var privateLines = []string{"private", "token reader " + readToken + " read", "token both " + bothToken + " read upload"}

const bothToken = "read-and-upload-secret"

// TestPrivateReads: each way to read needs the right, wherever the file is.
func TestPrivateReads(t *testing.T) {
	forEachOrigin(t, func(t *testing.T, o *testOrigin) {
		c := startCache(t, o, privateLines...)
		p, absent := signedPackage("private", 100_000), signedPackage("absent", 100)
		wantPrivate(t, c, p, absent) // nothing is there
		o.lay(t, p)
		wantPrivate(t, c, p, absent) // it is at the origin
		for range 3 {
			c.get(t, narinfoPath(p), basic(readToken)).wantBody(t, p.Text())
			nar := c.get(t, narPath(p), bearer(readToken))
			nar.wantBody(t, p.File)
			nar.wantHeader(t, "Cache-Control", "private, max-age=31536000, immutable, no-transform")
			c.get(t, narinfoPath(absent), basic(readToken)).wantStatus(t, http.StatusNotFound)
		}
		wantPrivate(t, c, p, absent) // it is in the tiers, or known to be absent
		if lines := c.ownLines("warn"); len(lines) != 1 || !strings.Contains(lines[0], `"client":"127.0.0.1"`) {
			t.Errorf("the refused reads of a client are told in %d lines: %q", len(lines), lines)
		}
		for _, path := range []string{"/", "/nix-cache-info", "/health", "/health/ready"} {
			c.get(t, path).wantStatus(t, http.StatusOK)
		}
		for _, want := range []struct{ method, user string }{{"GET", "reader"}, {"PUT", "both"}} {
			c.do(t, want.method, narPath(p), p.File, bearer(map[string]string{"reader": readToken, "both": bothToken}[want.user]))
			c.waitAccess(t, want.method+" by "+want.user, func(e accessEntry) bool {
				return e.Request.Method == want.method && e.UserID == want.user && e.Status == http.StatusOK
			})
		}
	})
}

// wantPrivate asks for files as those who may not read them.
func wantPrivate(t *testing.T, c *cache, packages ...nixtest.Package) {
	t.Helper()
	for _, p := range packages {
		for _, path := range []string{narinfoPath(p), narPath(p)} {
			for _, method := range []string{"GET", "HEAD"} {
				for _, who := range []struct {
					credential requestOption
					status     int
				}{
					{header("Accept", "*/*"), http.StatusUnauthorized},
					{header("Authorization", "Basic !!!"), http.StatusUnauthorized},
					{basic(uploadToken), http.StatusForbidden},
					{bearer(uploadToken), http.StatusForbidden},
				} {
					a := c.do(t, method, path, nil, who.credential, header("If-None-Match", "*"), header("Range", "bytes=1-"))
					a.wantStatus(t, who.status)
					a.wantHeader(t, "Cache-Control", "no-store")
					a.wantHeader(t, "Cache-Status", "")
				}
			}
		}
	}
}

// TestPrivateBesidePublic: nothing of a private cache shows in a public one that
// shares its directory, its memory and its name for the bucket.
func TestPrivateBesidePublic(t *testing.T) {
	red, blue := r2Origin(t), r2Origin(t)
	tier := "disk " + tempDir(t) + "/tier 1GiB"
	c := startCaddy(t, site("http://localhost", `
	handle_path /red/* {
		`+cacheDirective(red, append(privateLines, "name red", tier)...)+`
	}
	handle_path /blue/* {
		`+cacheDirective(blue, "name blue", tier)+`
	}`))
	reds := &cache{caddy: c, origin: red, base: c.HTTP + "/red", http: c.client(t)}
	blues := &cache{caddy: c, origin: blue, base: c.HTTP + "/blue", http: c.client(t)}
	secret, public := signedPackage("secret", 3_000_000), signedPackage("public", 3_000_000)
	red.lay(t, secret)
	blue.lay(t, public)
	paths := func(p nixtest.Package) []string { return []string{narinfoPath(p), narPath(p)} }
	for range 3 { // filled, then from the tiers
		for i, path := range paths(secret) {
			body := [][]byte{secret.Text(), secret.File}[i]
			reds.get(t, path, basic(readToken)).wantBody(t, body)
			blues.get(t, path).wantStatus(t, http.StatusNotFound)
			blues.head(t, path).wantStatus(t, http.StatusNotFound)
			reds.get(t, path).wantStatus(t, http.StatusUnauthorized)
			reds.get(t, path, basic(readToken)).wantBody(t, body) // whatever the other one remembers
		}
		for _, path := range paths(public) {
			reds.get(t, path, basic(readToken)).wantStatus(t, http.StatusNotFound)
			blues.get(t, path).wantStatus(t, http.StatusOK)
		}
	}
	blues.get(t, narPath(public)).wantHeader(t, "Cache-Control", "public, max-age=31536000, immutable, no-transform")
}

// TestPrivateNix: with a password in netrc a private cache is like any other;
// without one both Nixes take all files for missing.
func TestPrivateNix(t *testing.T) {
	t.Parallel()
	forEachOrigin(t, func(t *testing.T, o *testOrigin) {
		c := startCaddy(t, site("http://localhost", cacheDirective(o, privateLines...)))
		forEachNix(t, func(t *testing.T, flavor nixFlavor) {
			builder, user, stranger := newNixClient(t, flavor), newNixClient(t, flavor), newNixClient(t, flavor)
			root := builder.signedClosure(t)
			builder.netrc(t, bothToken)
			builder.push(t, c.HTTP, root)
			user.netrc(t, readToken)
			user.pull(t, c.HTTP, root)
			assertSameClosure(t, builder, user, root)

			for _, password := range []string{"", "wrong", uploadToken} {
				if password != "" {
					stranger.netrc(t, password)
				}
				stranger.forget(t)
				out, err := stranger.tryPull(t, c.HTTP, root)
				if err == nil || !strings.Contains(out, "is required, but there is no substituter") || strings.Contains(out, "HTTP error") {
					t.Errorf("pull with password %q: %v\n%s", password, err, out)
				}
			}
			stranger.netrc(t, readToken)
			stranger.forget(t)
			stranger.pull(t, c.HTTP, root)
		})
	})
}

// TestPrivatePushWithoutRead: such a client takes all for missing, and sends it
// each time.
func TestPrivatePushWithoutRead(t *testing.T) {
	t.Parallel()
	forEachNix(t, func(t *testing.T, flavor nixFlavor) {
		c := startCaddy(t, site("http://localhost", cacheDirective(dirOrigin(t), append(privateLines, "name private")...)))
		builder := newNixClient(t, flavor)
		root := builder.signedClosure(t)
		for _, token := range []string{uploadToken, bothToken} {
			builder.netrc(t, token)
			for range 2 {
				builder.forget(t)
				builder.push(t, c.HTTP, root)
			}
		}
		sent := c.metric(t, "requests_total", `cache="private",kind="nar",method="PUT",status="201"`) +
			c.metric(t, "requests_total", `cache="private",kind="nar",method="PUT",status="200"`)
		if sent != 2*closureSize {
			t.Errorf("%v NARs were sent, want %d: all by each push that could not read", sent, 2*closureSize)
		}
	})
}

// TestTokenFile: a line that comes or goes counts within about a second.
func TestTokenFile(t *testing.T) {
	file := tempDir(t) + "/tokens"
	writeFile(t, file, "# name secret rights\nci "+readToken+" read\n")
	o := dirOrigin(t)
	p := signedPackage("token-file", 100)
	o.lay(t, p)
	c := startCache(t, o, "private", "token_file "+file)
	c.get(t, narinfoPath(p), basic(readToken)).wantStatus(t, http.StatusOK)
	c.get(t, narinfoPath(p), basic("new-secret")).wantStatus(t, http.StatusForbidden)

	writeFile(t, file, "ci new-secret read delete\n")
	c.awaitAnswer(t, narinfoPath(p), readToken, http.StatusForbidden)
	c.get(t, narinfoPath(p), basic("new-secret")).wantStatus(t, http.StatusOK)

	writeFile(t, file, "ci new-secret\n")
	c.awaitLog(t, file+":1: expected a name")
	c.get(t, narinfoPath(p), basic("new-secret")).wantStatus(t, http.StatusOK)
	c.do(t, "DELETE", narinfoPath(p), nil, basic("new-secret")).wantStatus(t, http.StatusOK)
	if strings.Contains(c.log.String(), "new-secret") {
		t.Error("the log shows a secret")
	}
}

// awaitAnswer asks until the answer has a status.
func (c *cache) awaitAnswer(tb testing.TB, path, token string, status int) {
	tb.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		a := c.get(tb, path, basic(token))
		if a.Status == status {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			tb.Fatalf("%s: status stays %d, want %d", a.Request, a.Status, status)
		}
	}
}

// awaitLog waits for a text in Caddy's log, and asks meanwhile, since a token
// file is looked at when it is used.
func (c *cache) awaitLog(tb testing.TB, text string) {
	tb.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !strings.Contains(c.log.String(), text) {
		c.get(tb, "/nar/x", basic(readToken))
		c.get(tb, narinfoPath(signedPackage("any", 1)), basic("new-secret"))
		select {
		case <-tick.C:
		case <-deadline:
			tb.Fatalf("the log does not say %q", text)
		}
	}
}
