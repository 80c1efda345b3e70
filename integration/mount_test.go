package integration

import (
	"net/http"
	"os"
	"testing"
)

// TestBelowAPrefix: a cache lives in a site that does other things too.
func TestBelowAPrefix(t *testing.T) {
	forEachOrigin(t, func(t *testing.T, o *testOrigin) {
		root := tempDir(t)
		if err := os.Chmod(root, 0o755); err != nil {
			t.Fatal(err)
		}
		writeFile(t, root+"/index.html", "our home page")
		c := startCaddy(t, site("http://localhost", `
	handle /hello {
		respond "hello from next door"
	}
	handle_path /team/* {
		`+cacheDirective(o)+`
	}
	handle {
		root `+root+`
		file_server
	}`))
		site := &cache{caddy: c, base: c.HTTP, http: c.client(t)}
		site.get(t, "/hello").wantBody(t, []byte("hello from next door"))
		site.get(t, "/").wantBody(t, []byte("our home page"))
		site.get(t, "/nix-cache-info").wantStatus(t, http.StatusNotFound)
		site.get(t, "/team/nix-cache-info").wantStatus(t, http.StatusOK)
		forEachNix(t, func(t *testing.T, flavor nixFlavor) {
			testPushAndPull(t, c, c.HTTP+"/team", flavor)
		})
		site.get(t, "/hello").wantBody(t, []byte("hello from next door"))
	})
}

// TestTwoCachesInOneCaddy: nothing crosses from the one to the other.
func TestTwoCachesInOneCaddy(t *testing.T) {
	forEachOrigin(t, func(t *testing.T, red *testOrigin) {
		blue := dirOrigin(t)
		c := startCaddy(t, site("http://localhost", `
	handle_path /red/* {
		`+cacheDirective(red, "name red")+`
	}
	handle_path /blue/* {
		nix_cache {
			name blue
			`+blue.caddyfile+`
			upload_token blue-secret
			trusted_public_key `+otherKey.PublicKey().String()+`
		}
	}`))
		reds := &cache{caddy: c, origin: red, base: c.HTTP + "/red", http: c.client(t)}
		blues := &cache{caddy: c, origin: blue, base: c.HTTP + "/blue", http: c.client(t)}
		p := signedPackage("two-caches", 1000)

		blues.get(t, narinfoPath(p)).wantStatus(t, http.StatusNotFound)
		reds.upload(t, p)
		reds.get(t, narinfoPath(p)).wantBody(t, p.Text())
		blues.get(t, narinfoPath(p)).wantStatus(t, http.StatusNotFound)
		blues.get(t, narPath(p)).wantStatus(t, http.StatusNotFound)

		blues.put(t, narPath(p), p.File).wantRefusal(t, http.StatusForbidden, "")
		reds.put(t, narPath(p), p.File, basic("blue-secret")).wantRefusal(t, http.StatusForbidden, "")
		blues.put(t, narPath(p), p.File, basic("blue-secret")).wantStatus(t, http.StatusCreated)
		blues.put(t, narinfoPath(p), p.Text(), basic("blue-secret")).wantRefusal(t, http.StatusBadRequest, "sign")

		forEachNix(t, func(t *testing.T, flavor nixFlavor) {
			testPushAndPull(t, c, c.HTTP+"/red", flavor)
			builder := newNixClient(t, flavor)
			root := builder.buildClosure(t)
			builder.sign(t, "/mnt/other-key", root)
			builder.push(t, withPassword(c.HTTP+"/blue", "blue-secret"), root)
			user := newNixClient(t, flavor, "extra-trusted-public-keys = "+otherKey.PublicKey().String())
			user.pull(t, c.HTTP+"/blue", root)
			assertSameClosure(t, builder, user, root)
		})
	})
}
