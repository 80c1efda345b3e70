package integration

import (
	"maps"
	"net/http"
	"net/http/httptest"
	"path"
	"strings"
	"sync"
	"testing"

	"github.com/stevedores-org/nix-cache/caddymodule/nix/nixtest"
)

// startShared starts two caches over one bucket that share no tier: pull has one
// on disk, push none. Each may be written to.
func startShared(t *testing.T) (pull, push *cache) {
	t.Helper()
	o := r2Origin(t)
	more := []string{"trusted_public_key " + otherKey.PublicKey().String(), "token janitor " + deleteToken + " delete"}
	c := startCaddy(t, site("http://localhost", `
	handle_path /pull/* {
		`+cacheDirective(o, append(more, "name pull", "disk "+tempDir(t)+"/tier 1GiB")...)+`
	}
	handle_path /push/* {
		`+cacheDirective(o, append(more, "name push", "disk off")...)+`
	}`))
	pull = &cache{caddy: c, origin: o, base: c.HTTP + "/pull", http: c.client(t)}
	push = &cache{caddy: c, origin: o, base: c.HTTP + "/push", http: c.client(t)}
	return pull, push
}

// TestOneOriginTwoTiers: what is acknowledged by the one of two caches over an
// origin is seen through the other, whatever it had before.
func TestOneOriginTwoTiers(t *testing.T) {
	pull, push := startShared(t)
	for name, pair := range map[string][2]*cache{"read with a disk": {push, pull}, "read without": {pull, push}} {
		t.Run(name, func(t *testing.T) {
			writer, reader := pair[0], pair[1]
			p := signedPackage(strings.ReplaceAll(name, " ", "-"), 100_000)
			reader.wantAbsent(t, narPath(p), narinfoPath(p))
			writer.upload(t, p)
			for range 3 { // filled, then from the tiers
				reader.get(t, narPath(p)).wantBody(t, p.File)
				reader.get(t, narinfoPath(p)).wantBody(t, p.Text())
			}
			reader.getUntil(t, narinfoPath(p), reader.name()+"; hit; detail=memory")

			again := p
			again.NARInfo = new(*p.NARInfo)
			nixtest.SignedBy(otherKey)(&again)
			writer.put(t, narinfoPath(p), again.Text()).wantStatus(t, http.StatusCreated)
			reader.get(t, narinfoPath(p)).wantBody(t, again.Text())
			reader.getUntil(t, narinfoPath(p), reader.name()+"; hit; detail=memory")

			for _, path := range []string{narinfoPath(p), narPath(p)} {
				writer.delete(t, path).wantStatus(t, http.StatusOK)
				reader.wantAbsent(t, path)
			}
			for _, f := range unsignedFiles(p.NARInfo.StorePath.Name()) {
				reader.wantAbsent(t, f.path)
				writer.put(t, f.path, []byte(f.body)).wantStatus(t, http.StatusCreated)
				reader.get(t, f.path).wantBody(t, []byte(f.body))
			}
		})
	}
}

// name is what such a cache is called.
func (c *cache) name() string { return path.Base(c.base) }

// wantAbsent asks often enough that absence is remembered.
func (c *cache) wantAbsent(tb testing.TB, paths ...string) {
	tb.Helper()
	for _, path := range paths {
		for range 2 {
			c.get(tb, path).wantStatus(tb, http.StatusNotFound)
			c.head(tb, path).wantStatus(tb, http.StatusNotFound)
		}
	}
}

// TestForgetRouteOneOriginTwoTiers: the caches beside the one that is named.
func TestForgetRouteOneOriginTwoTiers(t *testing.T) {
	pull, push := startShared(t)
	p := signedPackage("forget", 10)
	push.wantAbsent(t, narinfoPath(p))
	pull.wantAbsent(t, narinfoPath(p))
	pull.origin.lay(t, p)
	pull.admin(t, "POST", "/nix-cache/forget", "application/json", `{"cache": "push", "paths": ["`+narinfoPath(p)[1:]+`"]}`)
	for _, c := range []*cache{pull, push} {
		c.get(t, narinfoPath(p)).wantBody(t, p.Text())
	}
}

// TestOneOriginTwoTiersInFlight: what the bucket said to the other cache before
// the upload, and is late to arrive, is not taken for what is there now.
func TestOneOriginTwoTiersInFlight(t *testing.T) {
	pull, push := startShared(t)
	p := signedPackage("in-flight", 1000)
	push.put(t, narPath(p), p.File).wantStatus(t, http.StatusCreated)
	asked, release := pull.origin.bucket.holdAnswers(isGet)
	late := make(chan answer)
	go func() {
		a, err := pull.try(t, "GET", narinfoPath(p), nil)
		if err != nil {
			t.Error(err)
		}
		late <- a
	}()
	<-asked
	pull.origin.bucket.setFault(nil)
	push.put(t, narinfoPath(p), p.Text()).wantStatus(t, http.StatusCreated)
	pull.get(t, narinfoPath(p)).wantBody(t, p.Text())
	release()
	(<-late).wantStatus(t, http.StatusNotFound)
	pull.get(t, narinfoPath(p)).wantBody(t, p.Text())
}

func isGet(r *http.Request) bool { return r.Method == http.MethodGet }

// isDownload matches what brings more of a file than that it is there.
func isDownload(r *http.Request) bool { return isGet(r) && r.Header.Get("Range") != "bytes=0-0" }

// holdAnswers keeps back the bucket's answers to the requests that match until
// release; asked has a value for each.
func (b *r2Bucket) holdAnswers(match func(*http.Request) bool) (asked <-chan struct{}, release func()) {
	answered, held := make(chan struct{}, 100), make(chan struct{})
	b.setFault(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if !match(r) {
			next.ServeHTTP(w, r)
			return
		}
		answer := httptest.NewRecorder()
		next.ServeHTTP(answer, r)
		answered <- struct{}{}
		<-held
		maps.Copy(w.Header(), answer.Header())
		w.WriteHeader(answer.Code)
		w.Write(answer.Body.Bytes())
	})
	return answered, sync.OnceFunc(func() { close(held) })
}
