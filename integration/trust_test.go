package integration

import (
	"strings"
	"testing"
)

// wantFailure checks that a command failed and told its user why.
func wantFailure(t *testing.T, out string, err error, texts ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("it worked:\n%s", out)
	}
	for _, text := range texts {
		if !strings.Contains(out, text) {
			t.Errorf("the user does not see %q:\n%s", text, out)
		}
	}
}

// TestCredentials: who may push, and what the others are told.
func TestCredentials(t *testing.T) {
	t.Parallel()
	c := startCaddy(t, site("http://localhost", cacheDirective(dirOrigin(t)))+site("https://localhost", cacheDirective(dirOrigin(t))))
	forEachNix(t, func(t *testing.T, flavor nixFlavor) {
		for name, url := range map[string]string{"HTTP": c.HTTP, "HTTPS": c.HTTPS} {
			t.Run(name, func(t *testing.T) {
				builder := newNixClient(t, flavor)
				builder.trust(t, c)
				root := builder.signedClosure(t)
				t.Run("missing", func(t *testing.T) {
					out, err := builder.tryPush(t, url, root)
					wantFailure(t, out, err, "401")
				})
				t.Run("wrong", func(t *testing.T) {
					builder.forget(t)
					out, err := builder.tryPush(t, withPassword(url, "wrong"), root)
					wantFailure(t, out, err, "403")
				})
				t.Run("netrc", func(t *testing.T) {
					builder.forget(t)
					builder.netrc(t, uploadToken)
					builder.push(t, url, root)
					user := newNixClient(t, flavor)
					user.trust(t, c)
					user.pull(t, url, root)
					assertSameClosure(t, builder, user, root)
				})
			})
		}
	})
}

// TestUntrustedPushes: a user sees why a narinfo was refused, and it is not
// there afterwards.
func TestUntrustedPushes(t *testing.T) {
	t.Parallel()
	c := startCaddy(t, site("http://localhost", cacheDirective(dirOrigin(t)))+site("https://localhost", cacheDirective(dirOrigin(t))))
	forEachNix(t, func(t *testing.T, flavor nixFlavor) {
		for name, url := range map[string]string{"HTTP": c.HTTP, "HTTPS": c.HTTPS} {
			t.Run(name, func(t *testing.T) {
				builder := newNixClient(t, flavor)
				builder.trust(t, c)
				root := builder.buildClosure(t)
				t.Run("unsigned", func(t *testing.T) {
					out, err := builder.tryPush(t, withPassword(url, uploadToken), root)
					wantFailure(t, out, err, "400", "sign")
				})
				t.Run("signed by another key", func(t *testing.T) {
					builder.forget(t)
					builder.sign(t, "/mnt/other-key", root)
					out, err := builder.tryPush(t, withPassword(url, uploadToken), root)
					wantFailure(t, out, err, "400", "sign")
				})
				user := newNixClient(t, flavor)
				user.trust(t, c)
				if out, err := user.tryPull(t, url, root); err == nil {
					t.Errorf("the closure can be pulled:\n%s", out)
				}
			})
		}
	})
}

// TestClientsCheckSignatures: what an open cache took in without a signature
// helps nobody, so that the other tests' pulls do show that signatures pass.
func TestClientsCheckSignatures(t *testing.T) {
	t.Parallel()
	o := dirOrigin(t)
	c := startCaddy(t, site("http://localhost", "nix_cache {\n\t\t"+o.caddyfile+"\n\t\tupload_token "+uploadToken+"\n\t}"))
	forEachNix(t, func(t *testing.T, flavor nixFlavor) {
		builder, user := newNixClient(t, flavor), newNixClient(t, flavor)
		root := builder.buildClosure(t)
		builder.push(t, withPassword(c.HTTP, uploadToken), root)
		out, err := user.tryPull(t, c.HTTP, root)
		wantFailure(t, out, err, "signature")
	})
}
