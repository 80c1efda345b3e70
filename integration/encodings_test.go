package integration

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stevedores-org/nix-cache/caddymodule/nix"
	"github.com/stevedores-org/nix-cache/caddymodule/nix/nixtest"
)

// everyCompression has a cache take what it would take none of by default, too.
const everyCompression = "accept_compression none xz zstd bzip2 gzip br lzip lz4"

// encodedPackage is a package that doesn't gain by compression, as encoded.
func encodedPackage(e nixtest.Encoding) nixtest.Package {
	name := strings.NewReplacer(" ", "-", ",", "").Replace(e.Compression.String() + "-" + e.Name)
	return signedPackage(name, 100_000, nixtest.Compressed(e.Compression, e.File))
}

// TestEncodings: what is taken, both clients read, and what they abort at or would
// download for nothing is refused.
func TestEncodings(t *testing.T) {
	c := startCache(t, dirOrigin(t), everyCompression)
	past := dirOrigin(t) // what was written past the gate
	var taken []string
	fatal := map[string]string{}
	for _, e := range nixtest.Encodings() {
		p := encodedPackage(e)
		path := p.NARInfo.StorePath.String()
		c.put(t, narPath(p), p.File).wantStatus(t, http.StatusCreated)
		if e.Refused == "" {
			taken = append(taken, path)
			c.put(t, narinfoPath(p), p.Text()).wantStatus(t, http.StatusCreated)
			continue
		}
		for range 2 {
			c.put(t, narinfoPath(p), p.Text()).wantRefusal(t, http.StatusUnprocessableEntity, e.Refused)
		}
		if e.Fatal {
			fatal[path] = e.Name
			past.lay(t, p)
		}
	}
	reads := startCache(t, past, everyCompression)
	forEachNix(t, func(t *testing.T, flavor nixFlavor) {
		n := newNixClient(t, flavor)
		n.run(t, "nix", append([]string{"copy", "--from", c.HTTP}, taken...)...)
		for path, name := range fatal {
			out, err := n.tryPull(t, reads.HTTP, path)
			t.Logf("lz4, %s: %v", name, err)
			if err == nil && flavor.name == "debian" {
				t.Errorf("%s can be read:\n%s", name, out)
			}
		}
	})
}

// TestPaddedNARs: nobody downloads 100 MB for a NAR of 1 kB.
func TestPaddedNARs(t *testing.T) {
	c := startCache(t, dirOrigin(t))
	p := signedPackage("padded", 1000, nixtest.Compressed(nix.CompressionZstd, func(nar []byte) []byte {
		return append(nixtest.Zstd(nar), nixtest.Skippable(100_000_000)...)
	}))
	c.put(t, narPath(p), p.File).wantStatus(t, http.StatusCreated)
	c.refuses(t, "", narinfoPath(p), p.Text(), http.StatusUnprocessableEntity, "FileSize")
	c.honest(t, signedPackage("padded", 1000, nixtest.Compressed(nix.CompressionZstd, nixtest.Zstd)))
}

// TestAcceptCompression: an upload in another compression is refused at its first
// request, with the setting's name; what is stored is served.
func TestAcceptCompression(t *testing.T) {
	o := dirOrigin(t)
	byDefault, few := startCache(t, o), startCache(t, o, "accept_compression zstd br")
	for compression, compress := range nixtest.Compressors {
		p := signedPackage("accept-"+compression.String(), 1000, nixtest.Compressed(compression, compress))
		rare := compression == nix.CompressionLZ4 || compression == nix.CompressionLzip
		common := compression == nix.CompressionZstd || compression == nix.CompressionBrotli
		for c, takes := range map[*cache]bool{byDefault: !rare, few: common} {
			if takes {
				continue
			}
			c.refuses(t, "", narPath(p), p.File, http.StatusBadRequest, "accept_compression")
			c.refuses(t, "", narinfoPath(p), p.Text(), http.StatusBadRequest, "accept_compression")
		}
		o.lay(t, p)
		few.get(t, narPath(p)).wantBody(t, p.File)
	}
}
