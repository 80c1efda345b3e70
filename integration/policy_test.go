package integration

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/stevedores-org/nix-cache/caddymodule/nix/nixtest"
)

// TestDivergence: what the second of two builds of one store path comes to that
// contradict each other.
func TestDivergence(t *testing.T) {
	forEachOrigin(t, func(t *testing.T, o *testOrigin) {
		for _, test := range []struct {
			setting         string
			status          int
			outcome, reason string
		}{
			{"name keep", http.StatusOK, "unchanged", "divergent"},
			{"on_divergence reject\n\t\tname reject", http.StatusConflict, "rejected", "divergent"},
		} {
			name := test.setting[strings.LastIndexByte(test.setting, ' ')+1:]
			t.Run(name, func(t *testing.T) {
				c := startCache(t, o, test.setting)
				first, second := signedPackage("divergent-"+name, 1000), signedPackage("divergent-"+name, 1001)
				c.upload(t, first)
				c.put(t, narPath(second), second.File).wantStatus(t, http.StatusCreated)
				a := c.put(t, narinfoPath(second), second.Text())
				a.wantStatus(t, test.status)
				hashes := []string{first.NARInfo.NARHash.String(), second.NARInfo.NARHash.String()}
				for _, hash := range hashes {
					if test.status == http.StatusConflict {
						a.wantRefusal(t, test.status, hash)
					}
				}
				if line := c.logged(t, hashes[1]); line["level"] != "warn" || !strings.Contains(fmt.Sprint(line), hashes[0]) {
					t.Errorf("logged is %v", line)
				}
				c.wantMetric(t, "uploads_total", `cache="`+name+`",kind="narinfo",outcome="`+test.outcome+`",reason="`+test.reason+`"`, 1)
				c.get(t, narinfoPath(first)).wantBody(t, first.Text())
			})
		}
	})
}

func TestRequiredReferences(t *testing.T) {
	forEachOrigin(t, func(t *testing.T, o *testOrigin) {
		c := startCache(t, o, "require_references same_cache")
		lib := signedPackage("required-lib", 1000)
		top := nixtest.NewPackage("required-top", 1000, nixtest.References(lib.NARInfo.StorePath, nixtest.StorePath("required-top")), nixtest.SignedBy(testKey))
		c.put(t, narPath(top), top.File).wantStatus(t, http.StatusCreated)
		c.put(t, narinfoPath(top), top.Text()).wantRefusal(t, http.StatusConflict, lib.NARInfo.StorePath.String())
		c.get(t, narinfoPath(top)).wantStatus(t, http.StatusNotFound)
		c.wantMetric(t, "uploads_total", `cache="nix-cache",kind="narinfo",outcome="rejected",reason="reference_missing"`, 1)
		c.upload(t, lib)
		c.put(t, narinfoPath(top), top.Text()).wantStatus(t, http.StatusCreated)
	})
}

// TestRequiredReferencesOfClosures: Nix sends references first, also where
// several clients push one closure at a time.
func TestRequiredReferencesOfClosures(t *testing.T) {
	t.Parallel()
	forEachOrigin(t, func(t *testing.T, o *testOrigin) {
		c := startCaddy(t, site("http://localhost", cacheDirective(o, "require_references same_cache")))
		forEachNix(t, func(t *testing.T, flavor nixFlavor) {
			builders := []*nixClient{newNixClient(t, flavor), newNixClient(t, flavor), newNixClient(t, flavor)}
			root := ""
			for _, builder := range builders {
				root = builder.signedClosure(t)
			}
			var pushes sync.WaitGroup
			for _, builder := range builders {
				pushes.Go(func() {
					if out, err := builder.tryPush(t, withPassword(c.HTTP, uploadToken), root); err != nil {
						t.Errorf("push: %v\n%s", err, out)
					}
				})
			}
			pushes.Wait()
			user := newNixClient(t, flavor)
			user.pull(t, c.HTTP, root)
			assertSameClosure(t, builders[0], user, root)
		})
	})
}
