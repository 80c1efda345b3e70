package integration

import (
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestOIDC: a job uploads with its token, and who else has one does not.
func TestOIDC(t *testing.T) {
	key, stranger := newOIDCKey(t, "one"), newOIDCKey(t, "one")
	is := startIssuer(t, key)
	c := startCache(t, dirOrigin(t), is.directive())
	p := signedPackage("oidc", 1000)
	good := is.token(t, key, nil)
	c.put(t, narPath(p), p.File, bearer(good)).wantStatus(t, http.StatusCreated)
	c.put(t, narinfoPath(p), p.Text(), basic(good)).wantStatus(t, http.StatusCreated)
	c.get(t, narinfoPath(p)).wantStatus(t, http.StatusOK)
	c.do(t, "DELETE", narinfoPath(p), nil, bearer(good)).wantRefusal(t, http.StatusForbidden, "does not have the right")
	name := "oidc:" + strings.TrimPrefix(is.url, "http://") + ":repo:my-org/app:ref:refs/heads/main"
	for _, test := range []struct {
		name, token, want string
	}{
		{"another repository", is.token(t, key, map[string]any{"repository": "other-org/app"}), "the token's claims"},
		{"a branch", is.token(t, key, map[string]any{"ref": "refs/heads/topic"}), "the token's claims"},
		{"another audience", is.token(t, key, map[string]any{"aud": "https://other.example.org"}), "the token's audience"},
		{"expired", is.token(t, key, map[string]any{"exp": time.Now().Add(-time.Hour).Unix()}), "the token expired"},
		{"an expiry that is a text", is.token(t, key, map[string]any{"exp": "never"}), "the token's claim exp has the wrong type"},
		{"an audience that is a number", is.token(t, key, map[string]any{"aud": 7}), "the token's claim aud has the wrong type"},
		{"signed by a stranger", is.token(t, stranger, nil), "no key that the token's issuer publishes"},
		{"another issuer", is.token(t, key, map[string]any{"iss": "https://other.example.org"}), "not known here"},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, credential := range []requestOption{bearer(test.token), basic(test.token)} {
				c.put(t, narPath(p), p.File, credential).wantRefusal(t, http.StatusForbidden, test.want)
			}
		})
	}
	c.put(t, narPath(p), p.File).wantStatus(t, http.StatusOK) // upload_token goes on working
	c.wantLog(t, name)
	c.wantLog(t, "other-org/app") // why it was refused
	for part := range strings.SplitSeq(good, ".") {
		if strings.Contains(c.log.String(), part) {
			t.Errorf("the log has %q of a token", part)
		}
	}
}

// wantLog waits until the log has a line with this text.
func (c *caddy) wantLog(tb testing.TB, text string) {
	tb.Helper()
	if _, ok := c.log.wait(0, c.ended, func(line string) bool { return strings.Contains(line, text) }); !ok {
		tb.Errorf("the log says nothing of %q", text)
	}
}

// TestOIDCPush: `nix copy` with a job's token in the netrc file.
func TestOIDCPush(t *testing.T) {
	t.Parallel()
	key := newOIDCKey(t, "one")
	is := startIssuer(t, key)
	c := startCaddy(t, site("http://localhost", cacheDirective(dirOrigin(t), is.directive())))
	forEachNix(t, func(t *testing.T, flavor nixFlavor) {
		builder, user := newNixClient(t, flavor), newNixClient(t, flavor)
		root := builder.signedClosure(t)
		builder.netrc(t, is.token(t, key, map[string]any{"repository": "my-org-evil/app"}))
		if out, err := builder.tryPush(t, c.HTTP, root); err == nil || !strings.Contains(out, "403") {
			t.Errorf("push of another repository: %v\n%s", err, out)
		}
		// Tokens of GitHub have about 30 claims.
		builder.netrc(t, is.token(t, key, map[string]any{"more": strings.Repeat("x", 1500)}))
		builder.push(t, c.HTTP, root)
		user.pull(t, c.HTTP, root)
		assertSameClosure(t, builder, user, root)
	})
}

// TestOIDCRotation: a new key counts without a reload, and one that is withdrawn
// does so no more.
func TestOIDCRotation(t *testing.T) {
	t.Parallel()
	old, next := newOIDCKey(t, "old"), newOIDCKey(t, "next")
	is := startIssuer(t, old)
	c := startCache(t, dirOrigin(t), is.directive())
	p := signedPackage("oidc-rotation", 1000)
	c.put(t, narPath(p), p.File, bearer(is.token(t, old, nil))).wantStatus(t, http.StatusCreated)
	is.publish(next)
	c.put(t, narPath(p), p.File, bearer(is.token(t, next, nil))).wantStatus(t, http.StatusOK)
	c.put(t, narPath(p), p.File, bearer(is.token(t, old, nil))).wantStatus(t, http.StatusForbidden)
}

// TestOIDCIssuerDown: known keys go on working, through a reload too; an unknown
// one is for later, and the cache loads its config and serves all the same.
func TestOIDCIssuerDown(t *testing.T) {
	t.Parallel()
	key, next := newOIDCKey(t, "one"), newOIDCKey(t, "next")
	is := startIssuer(t, key)
	is.setDown(true)
	o := dirOrigin(t)
	c := startCache(t, o, is.directive())
	p := signedPackage("oidc-down", 1000)
	put := func(token string) answer { t.Helper(); return c.put(t, narPath(p), p.File, bearer(token)) }

	refused := put(is.token(t, key, nil))
	refused.wantRefusal(t, http.StatusServiceUnavailable, "try again")
	if refused.Header.Get("Retry-After") == "" {
		t.Error("nothing says when to try again")
	}
	c.put(t, narPath(p), p.File).wantStatus(t, http.StatusCreated)

	is.setDown(false)
	c.comeBack(t, http.StatusOK, func() answer { return put(is.token(t, key, nil)) })
	is.setDown(true)
	put(is.token(t, key, nil)).wantStatus(t, http.StatusOK)
	put(is.token(t, next, nil)).wantRefusal(t, http.StatusServiceUnavailable, "issuer does not answer")

	c.reload(t, site("http://localhost", cacheDirective(o, is.directive(), "priority 7")))
	c.awaitPriority(t, "7")
	put(is.token(t, key, nil)).wantStatus(t, http.StatusOK)
	is.publish(key, next)
	is.setDown(false)
	c.comeBack(t, http.StatusOK, func() answer { return put(is.token(t, next, nil)) })
}

// comeBack repeats a request, as a client does that is told to come back.
func (c *cache) comeBack(tb testing.TB, status int, request func() answer) {
	tb.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		a := request()
		if a.Status == status {
			return
		}
		a.wantStatus(tb, http.StatusServiceUnavailable)
		select {
		case <-tick.C:
		case <-deadline:
			tb.Fatalf("%s: status stays %d, want %d", a.Request, a.Status, status)
		}
	}
}
