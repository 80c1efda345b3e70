package integration

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// manyPaths is how many store paths the large pushes have.
const manyPaths = 500

// addTexts puts texts from first to last into the client's store, without a
// builder, and a root that refers to all of them. It returns the root.
func (n *nixClient) addTexts(tb testing.TB, first, last int) string {
	tb.Helper()
	expression := fmt.Sprintf(`let
  number = n: toString n;
  text = n: builtins.toFile "text-${number n}" "text ${number n}\n";
  texts = builtins.genList (i: text (i + %d)) %d;
in builtins.toFile "root-%d-%d" (builtins.concatStringsSep "\n" texts)`, first, last-first, first, last)
	writeFile(tb, n.dir+"/texts.nix", expression)
	return strings.Trim(n.run(tb, "nix-instantiate", "--eval", "--read-write-mode", "/mnt/texts.nix"), `"`)
}

// requisites returns the paths of a closure, sorted, and then their hashes.
func (n *nixClient) requisites(tb testing.TB, root string) string {
	tb.Helper()
	return n.run(tb, "/bin/sh", "-c", `set -e
paths=$(nix-store --query --requisites "$1" | sort)
echo "$paths"
nix-store --query --hash $paths`, "requisites", root)
}

// TestPushOfManyPaths: a push costs the origin no more than it must, and what was
// pushed comes down again.
func TestPushOfManyPaths(t *testing.T) {
	t.Parallel()
	o := r2Origin(t)
	c := startFastCache(t, o)
	forEachNix(t, func(t *testing.T, flavor nixFlavor) {
		// Texts are addressed by their content, so each flavor has its own.
		offset := map[string]int{"debian": 0, "sid": 10_000}[flavor.name]
		builder, user := newNixClient(t, flavor), newNixClient(t, flavor)
		root := builder.addTexts(t, offset, offset+manyPaths-1)
		builder.sign(t, "/mnt/secret-key", root)
		o.bucket.take()
		begin := time.Now()
		builder.push(t, withPassword(c.HTTP, uploadToken)+"?compression=zstd", root)
		pushed := time.Since(begin)
		methods := map[string]int{}
		for _, r := range o.bucket.take() {
			methods[r.Method]++
		}
		begin = time.Now()
		user.pull(t, c.HTTP, root)
		t.Logf("%d paths: pushed in %v, pulled in %v; requests to the bucket %v", manyPaths, pushed, time.Since(begin), methods)
		if methods["PUT"] != 2*manyPaths {
			t.Errorf("%d PUTs to the bucket, want %d", methods["PUT"], 2*manyPaths)
		}
		// A look for the narinfo, a look for the NAR by client and upload each,
		// and a look for the NAR by the upload of its narinfo.
		if reads := methods["GET"] + methods["HEAD"]; reads > 4*manyPaths+10 {
			t.Errorf("%d reads of the bucket for %d paths", reads, manyPaths)
		}
		if w, g := builder.requisites(t, root), user.requisites(t, root); w != g || strings.Count(w, "\n")+1 != 2*manyPaths {
			t.Errorf("pushed:\n%.500s\npulled:\n%.500s", w, g)
		}
	})
}

// TestPushesThatOverlap: four clients of both kinds push at once closures that
// share half of their paths, each with a compression of its own.
func TestPushesThatOverlap(t *testing.T) {
	t.Parallel()
	forEachOrigin(t, func(t *testing.T, o *testOrigin) {
		c := startCaddy(t, site("http://localhost", cacheDirective(o)))
		const each = 40
		type pusher struct {
			*nixClient
			root string
		}
		var pushers []pusher
		for i, compression := range []string{"xz", "zstd", "none", "br"} {
			n := newNixClient(t, nixFlavors[i%len(nixFlavors)])
			root := n.addTexts(t, i*each/2, i*each/2+each)
			n.sign(t, "/mnt/secret-key", root)
			pushers = append(pushers, pusher{n, root})
			writeFile(t, n.dir+"/compression", compression)
		}
		var pushes sync.WaitGroup
		for _, p := range pushers {
			pushes.Go(func() {
				url := withPassword(c.HTTP, uploadToken) + "?compression=" + readFile(t, p.dir+"/compression")
				if out, err := p.tryPush(t, url, p.root); err != nil {
					t.Errorf("push of %s: %v\n%s", p.root, err, out)
				}
			})
		}
		pushes.Wait()
		o.wantWhole(t, make(map[string]bool))
		for i, p := range pushers {
			user := newNixClient(t, nixFlavors[(i+1)%len(nixFlavors)])
			user.pull(t, c.HTTP, p.root)
			if w, g := p.requisites(t, p.root), user.requisites(t, p.root); w != g {
				t.Errorf("pushed:\n%.500s\npulled:\n%.500s", w, g)
			}
			user.run(t, "nix-store", "--verify", "--check-contents")
		}
	})
}

// TestSignAgain: `nix store sign --store` adds a signature to what is in the
// cache, without its NAR.
func TestSignAgain(t *testing.T) {
	t.Parallel()
	forEachOrigin(t, func(t *testing.T, o *testOrigin) {
		second := "trusted_public_key " + otherKey.PublicKey().String()
		c := startCaddy(t, site("http://localhost", cacheDirective(o, second)))
		forEachNix(t, func(t *testing.T, flavor nixFlavor) {
			builder := newNixClient(t, flavor)
			root := builder.signedClosure(t)
			url := withPassword(c.HTTP, uploadToken)
			builder.push(t, url, root)
			user := newNixClient(t, flavor, "trusted-public-keys = "+otherKey.PublicKey().String())
			out, err := user.tryPull(t, c.HTTP, root)
			wantFailure(t, out, err, "signature")

			builder.forget(t)
			lines, _ := c.log.snapshot()
			builder.run(t, "nix", "store", "sign", "--store", url, "--key-file", "/mnt/other-key", "--recursive", root)
			eventually(t, "the access log", func() error {
				after, _ := c.log.snapshot()
				if puts := putsOfNARInfos(t, after[len(lines):]); puts != closureSize {
					return fmt.Errorf("%d narinfos were sent, want %d", puts, closureSize)
				}
				return nil
			})
			user.forget(t)
			user.pull(t, c.HTTP, root)
			assertSameClosure(t, builder, user, root)
		})
	})
}

// putsOfNARInfos counts the uploads in an access log, which have to be of narinfos
// and to be taken.
func putsOfNARInfos(t *testing.T, lines []string) (puts int) {
	t.Helper()
	for _, line := range lines {
		var e accessEntry
		if !strings.Contains(line, `"http.log.access`) || json.Unmarshal([]byte(line), &e) != nil || e.Request.Method != http.MethodPut {
			continue
		}
		puts++
		if !strings.HasSuffix(e.Request.URI, ".narinfo") || e.Status != http.StatusCreated && e.Status != http.StatusOK {
			t.Errorf("PUT %s: status %d", e.Request.URI, e.Status)
		}
	}
	return puts
}

// TestCompressionsOfClients: every compression and way to compress that clients
// have settings for.
func TestCompressionsOfClients(t *testing.T) {
	t.Parallel()
	c := startCaddy(t, site("http://localhost", cacheDirective(dirOrigin(t), everyCompression)))
	settings := []string{"compression=none", "compression=gzip", "compression=lz4", "compression=lzip",
		"compression=xz&parallel-compression=true", "compression=zstd&parallel-compression=true&compression-level=19"}
	for _, setting := range settings {
		forEachNix(t, func(t *testing.T, flavor nixFlavor) {
			t.Run(setting, func(t *testing.T) { testCompressionSetting(t, c, flavor, setting) })
		})
	}
	for _, coding := range []string{"zstd", "br", "gzip", "xz"} {
		setting := "narinfo-compression=" + coding
		t.Run(setting, func(t *testing.T) {
			testCompressionSetting(t, c, nixFlavors[1], setting)
			c.waitAccess(t, "PUT with Content-Encoding "+coding, func(e accessEntry) bool {
				return e.Request.Method == http.MethodPut && e.Request.Headers.Get("Content-Encoding") == coding && e.Status == http.StatusCreated
			})
		})
	}
}

func testCompressionSetting(t *testing.T, c *caddy, flavor nixFlavor, setting string) {
	builder, user := newNixClient(t, flavor), newNixClient(t, flavor)
	root := builder.signedClosure(t)
	builder.push(t, withPassword(c.HTTP, uploadToken)+"?"+setting, root)
	user.pull(t, c.HTTP, root)
	assertSameClosure(t, builder, user, root)
}

// divergentNix builds something else each time, under one path.
const divergentNix = `{ nonce }: derivation {
  name = "divergent-${nonce}";
  system = builtins.currentSystem;
  builder = "/bin/sh";
  args = [ "-c" "read -r uuid < /proc/sys/kernel/random/uuid; echo $uuid > $out" ];
}
`

// TestDivergentBuilds: of two builds of one path the first stays, the push of the
// second succeeds, and the operator sees both hashes.
func TestDivergentBuilds(t *testing.T) {
	t.Parallel()
	forEachOrigin(t, func(t *testing.T, o *testOrigin) {
		c := startCaddy(t, site("http://localhost", cacheDirective(o)))
		forEachNix(t, func(t *testing.T, flavor nixFlavor) {
			var root string
			var builders []*nixClient
			for range 2 {
				n := newNixClient(t, flavor)
				writeFile(t, n.dir+"/divergent.nix", divergentNix)
				out := n.run(t, "nix-build", "--no-out-link", "--argstr", "nonce", flavor.name, "/mnt/divergent.nix")
				root = out[strings.LastIndexByte(out, '\n')+1:]
				n.sign(t, "/mnt/secret-key", root)
				builders = append(builders, n)
			}
			first, second := builders[0].run(t, "nix-store", "--query", "--hash", root), builders[1].run(t, "nix-store", "--query", "--hash", root)
			if first == second {
				t.Fatal("the builds are the same")
			}
			url := withPassword(c.HTTP, uploadToken)
			// Both have seen that it is missing, as if they pushed at once.
			builders[1].try(t, "nix", "path-info", "--store", url, root)
			builders[0].push(t, url, root)
			builders[1].push(t, url, root)
			entry := c.logged(t, "narinfo kept: an upload of the same store path has other content")
			if entry["level"] != "warn" {
				t.Errorf("logged as %v", entry)
			}
			if text := c.log.String(); !strings.Contains(text, first) || !strings.Contains(text, second) {
				t.Errorf("the log does not have both %s and %s", first, second)
			}
			user := newNixClient(t, flavor)
			user.pull(t, c.HTTP, root)
			if got := user.run(t, "nix-store", "--query", "--hash", root); got != first {
				t.Errorf("pulled %s, want the first, %s", got, first)
			}
		})
	})
}
