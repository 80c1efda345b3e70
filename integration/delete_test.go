package integration

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/stevedores-org/nix-cache/caddymodule/nix/nixtest"
)

// deleter is a cache with a token that may delete.
func deleter(t *testing.T, o *testOrigin) *cache {
	t.Helper()
	return startCache(t, o, "token janitor "+deleteToken+" delete")
}

func (c *cache) delete(tb testing.TB, path string) answer {
	tb.Helper()
	return c.do(tb, "DELETE", path, nil, bearer(deleteToken))
}

// TestDelete: a narinfo first, its NAR only when no narinfo refers to it, or
// when the client insists.
func TestDelete(t *testing.T) {
	forEachOrigin(t, func(t *testing.T, o *testOrigin) {
		c := deleter(t, o)
		for _, test := range []struct {
			name  string
			steps func(t *testing.T, p nixtest.Package)
		}{
			{"NAR before its narinfo", func(t *testing.T, p nixtest.Package) {
				c.delete(t, narPath(p)).wantRefusal(t, http.StatusConflict, p.NARInfo.StorePath.String())
				a := c.get(t, narPath(p))
				a.wantBody(t, p.File)
				if o.bucket != nil {
					a.wantHeader(t, "Cache-Status", diskHit)
				}
			}},
			{"narinfo, then its NAR", func(t *testing.T, p nixtest.Package) {
				for _, path := range []string{narinfoPath(p), narPath(p)} {
					c.get(t, path).wantStatus(t, http.StatusOK)
					c.delete(t, path).wantStatus(t, http.StatusOK)
					c.get(t, path).wantStatus(t, http.StatusNotFound)
					c.delete(t, path).wantRefusal(t, http.StatusNotFound, "")
				}
			}},
			{"NAR, by force", func(t *testing.T, p nixtest.Package) {
				c.get(t, narPath(p)).wantStatus(t, http.StatusOK)
				c.delete(t, narPath(p)+"?force=true").wantStatus(t, http.StatusOK)
				c.get(t, narPath(p)).wantStatus(t, http.StatusNotFound)
				c.get(t, narinfoPath(p)).wantBody(t, p.Text())
			}},
			{"with half a force", func(t *testing.T, p nixtest.Package) {
				for _, query := range []string{"force", "force=", "force=1", "force=True", "force=false", "force=true&force=true", "force=%zz", "force=true;x"} {
					c.delete(t, narPath(p)+"?"+query).wantRefusal(t, http.StatusBadRequest, "")
				}
				c.get(t, narPath(p)).wantBody(t, p.File)
			}},
		} {
			t.Run(test.name, func(t *testing.T) {
				p := signedPackage(fmt.Sprintf("delete-%x", test.name), 1000)
				c.upload(t, p)
				test.steps(t, p)
			})
		}
	})
}

// TestDeleteInAnOutage: what can't be listed may be referred to.
func TestDeleteInAnOutage(t *testing.T) {
	t.Parallel()
	o := r2Origin(t)
	c := deleter(t, o)
	p := signedPackage("delete-outage", 1000)
	o.lay(t, p)
	o.bucket.setFault(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if r.URL.Query().Has("list-type") {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		next.ServeHTTP(w, r)
	})
	c.delete(t, narPath(p)).wantRefusal(t, http.StatusBadGateway, "")
	o.bucket.setFault(nil)
	c.get(t, narPath(p)).wantBody(t, p.File)
}

// TestJanitor deletes pairs one after the other from among many packages: but
// for the first of them that costs listings only.
func TestJanitor(t *testing.T) {
	t.Parallel()
	const packages, deleted = 1100, 5 // more than fit a page of a listing
	forEachOrigin(t, func(t *testing.T, o *testOrigin) {
		c := deleter(t, o)
		all := make([]nixtest.Package, packages)
		var g errgroup.Group
		g.SetLimit(8)
		for i := range all {
			all[i] = signedPackage(fmt.Sprint("janitor-", i), 100)
			g.Go(func() error { o.lay(t, all[i]); return nil })
		}
		g.Wait()
		for i, p := range all[:deleted] {
			if o.bucket != nil {
				o.bucket.take()
			}
			c.delete(t, narinfoPath(p)).wantStatus(t, http.StatusOK)
			begun := time.Now()
			c.delete(t, narPath(p)).wantStatus(t, http.StatusOK)
			t.Logf("NAR %d of %d packages deleted in %v", i, packages, time.Since(begun).Round(time.Millisecond))
			if o.bucket != nil && i > 0 {
				// Each file is looked for and deleted, and all are listed in pages.
				if got, want := len(o.bucket.take()), 2*2+(2*packages+999)/1000; got != want {
					t.Errorf("%d requests to the bucket for a pair, want %d", got, want)
				}
			}
		}
		c.get(t, narinfoPath(all[deleted])).wantStatus(t, http.StatusOK)
		c.delete(t, narPath(all[deleted])).wantRefusal(t, http.StatusConflict, all[deleted].NARInfo.StorePath.String())
	})
}
