package integration

import (
	"strings"
	"testing"
)

// withPassword puts a token into a cache's URL, as Nix takes it.
func withPassword(url, token string) string {
	return strings.Replace(url, "://", "://ci:"+token+"@", 1)
}

// TestPushAndPull: a closure goes up and comes down into an empty store with
// signatures checked, byte by byte the same.
func TestPushAndPull(t *testing.T) {
	t.Parallel()
	forEachOrigin(t, func(t *testing.T, o *testOrigin) {
		c := startCaddy(t, site("http://localhost", cacheDirective(o))+site("https://localhost", cacheDirective(o)))
		forEachNix(t, func(t *testing.T, flavor nixFlavor) {
			t.Run("HTTP", func(t *testing.T) { testPushAndPull(t, c, c.HTTP, flavor) })
			t.Run("HTTPS", func(t *testing.T) {
				testPushAndPull(t, c, c.HTTPS, flavor)
				for _, method := range []string{"GET", "PUT"} {
					c.waitAccess(t, method+" of "+flavor.name+" over HTTP/2", func(e accessEntry) bool {
						return e.Request.Method == method && e.Request.Proto == "HTTP/2.0" && e.Status < 300
					})
				}
			})
		})
	})
}

func testPushAndPull(t *testing.T, c *caddy, url string, flavor nixFlavor) {
	builder := newNixClient(t, flavor)
	user := newNixClient(t, flavor)
	if url == c.HTTPS {
		builder.trust(t, c)
		user.trust(t, c)
	}
	root := builder.signedClosure(t)
	builder.push(t, withPassword(url, uploadToken), root)
	user.pull(t, url, root)
	assertSameClosure(t, builder, user, root)
	user.run(t, "nix-store", "--verify", "--check-contents")
}

// TestCompressions: each compression that a client offers, and none.
func TestCompressions(t *testing.T) {
	t.Parallel()
	c := startCaddy(t, site("http://localhost", cacheDirective(dirOrigin(t))))
	forEachNix(t, func(t *testing.T, flavor nixFlavor) {
		for _, compression := range []string{"none", "xz", "zstd", "bzip2", "br"} {
			t.Run(compression, func(t *testing.T) {
				builder, user := newNixClient(t, flavor), newNixClient(t, flavor)
				root := builder.signedClosure(t)
				builder.push(t, withPassword(c.HTTP, uploadToken)+"?compression="+compression, root)
				user.substitute(t, c.HTTP, root)
				assertSameClosure(t, builder, user, root)
			})
		}
	})
}

// TestBothNixesShareACache: what the one pushes the other can use.
func TestBothNixesShareACache(t *testing.T) {
	t.Parallel()
	c := startCaddy(t, site("http://localhost", cacheDirective(dirOrigin(t))))
	for i, flavor := range nixFlavors {
		builder := newNixClient(t, flavor)
		user := newNixClient(t, nixFlavors[len(nixFlavors)-1-i])
		root := builder.signedClosure(t)
		builder.push(t, withPassword(c.HTTP, uploadToken), root)
		user.pull(t, c.HTTP, root)
		assertSameClosure(t, builder, user, root)
	}
}
