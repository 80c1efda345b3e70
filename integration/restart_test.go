package integration

import (
	"strings"
	"testing"
)

// TestRestartWithAWarmDisk: what the disk tier holds is not asked of the bucket
// again, whether Caddy ended in peace or not.
func TestRestartWithAWarmDisk(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*caddy, testing.TB){"stopped": (*caddy).stop, "killed": (*caddy).kill} {
		t.Run(name, func(t *testing.T) {
			o := r2Origin(t)
			c := startCaddy(t, site("http://localhost", cacheDirective(o)))
			forEachNix(t, func(t *testing.T, flavor nixFlavor) {
				builder, first, second := newNixClient(t, flavor), newNixClient(t, flavor), newNixClient(t, flavor)
				root := builder.signedClosure(t)
				builder.push(t, withPassword(c.HTTP, uploadToken), root)
				first.pull(t, c.HTTP, root)
				waitForDisk(t, c, o, root, first)
				end(c, t)
				c.run(t)
				o.bucket.take()
				second.pull(t, c.HTTP, root)
				assertSameClosure(t, builder, second, root)
				for _, r := range o.bucket.take() {
					if strings.HasPrefix(r.Path, "nar/") {
						t.Errorf("%s %s reached the bucket", r.Method, r.Path)
					}
				}
			})
		})
	}
}

// waitForDisk returns when every NAR of a closure is a hit on disk: a fill ends
// a moment after the last client that read from it.
func waitForDisk(t *testing.T, c *caddy, o *testOrigin, root string, n *nixClient) {
	t.Helper()
	reader := &cache{caddy: c, origin: o, base: c.HTTP, http: c.client(t)}
	for _, path := range strings.Fields(n.run(t, "nix-store", "--query", "--requisites", root)) {
		hash := strings.TrimPrefix(path, "/nix/store/")[:32]
		narinfo := string(reader.get(t, "/"+hash+".narinfo").Body)
		_, rest, _ := strings.Cut(narinfo, "URL: ")
		url, _, _ := strings.Cut(rest, "\n")
		reader.getUntil(t, "/"+url, diskHit)
	}
}
