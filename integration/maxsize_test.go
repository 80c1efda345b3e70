package integration

import (
	"net/http"
	"testing"
)

// bounded are directives by which Caddy takes only small bodies.
const bounded = `@nar path /nar/*
	@info path *.narinfo
	request_body @nar {
		max_size 1MB
	}
	request_body @info {
		max_size 200
	}
	`

// TestCaddysMaxSize: a body over the limit of Caddy's own is 413, however it is
// sent, and one below it is taken.
func TestCaddysMaxSize(t *testing.T) {
	t.Parallel()
	o := dirOrigin(t)
	sites := site("http://localhost", bounded+cacheDirective(o)) + site("https://localhost", bounded+cacheDirective(o))
	c := caddySetup{Caddyfile: globalOptions + sites}.start(t)
	c.logged(t, "certificate obtained successfully")
	over, fits := signedPackage("max-size-over", 2_000_000), signedPackage("max-size-fits", 100_000)
	for _, base := range []string{c.HTTP, c.HTTPS} {
		cache := &cache{caddy: c, origin: o, base: base, http: c.client(t)}
		for name, how := range map[string]func([]byte) requestOption{
			"announced": func([]byte) requestOption { return func(*http.Request) {} },
			"chunked":   unannounced,
			"expected":  func([]byte) requestOption { return header("Expect", "100-continue") },
			"both": func(body []byte) requestOption {
				return func(r *http.Request) {
					unannounced(body)(r)
					r.Header.Set("Expect", "100-continue")
				}
			},
		} {
			for path, body := range map[string][]byte{narPath(over): over.File, narinfoPath(over): over.Text()} {
				a := cache.put(t, path, body, how(body))
				a.Request = base + " " + name + " " + a.Request
				a.wantStatus(t, http.StatusRequestEntityTooLarge)
			}
			if a := cache.put(t, narPath(fits), fits.File, how(fits.File)); a.Status != http.StatusCreated && a.Status != http.StatusOK {
				t.Errorf("%s %s: a body below the limit: status %d", base, name, a.Status)
			}
		}
		cache.get(t, narPath(over)).wantStatus(t, http.StatusNotFound)
	}
	cache := &cache{caddy: c, origin: o, base: c.HTTP, http: c.client(t)}
	cache.put(t, narPath(over), over.File, unannounced(over.File)).wantRefusal(t, http.StatusRequestEntityTooLarge, "max_size")
}
