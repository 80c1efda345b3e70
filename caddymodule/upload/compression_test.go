package upload

import (
	"testing"

	"github.com/stevedores-org/nix-cache/caddymodule/nix"
	"github.com/stevedores-org/nix-cache/caddymodule/nix/nixtest"
)

func TestCompressions(t *testing.T) {
	r, m := newReceiver()
	r.Compressions = Compressions{nix.CompressionZstd, nix.CompressionGzip}
	for c, compress := range compressors {
		p := nixtest.NewPackage("hello-"+c.String(), 1000, nixtest.Compressed(c, compress), nixtest.SignedBy(key1))
		switch c {
		case nix.CompressionZstd, nix.CompressionGzip:
			wantOutcome(t, r, p.NARInfo.NARPath(), announced(p.File), Stored)
			wantOutcome(t, r, infoPath(p), announced(p.Text()), Stored)
		case nix.CompressionNone: // its NAR has the name of one in gzip
			wantOutcome(t, r, p.NARInfo.NARPath(), announced(p.File), Stored)
			wantRejected(t, r, infoPath(p), announced(p.Text()), Malformed)
		default:
			wantRejected(t, r, p.NARInfo.NARPath(), announced(p.File), Malformed)
			wantRejected(t, r, infoPath(p), push(t, m, p), Malformed)
		}
	}
}

// TestUselessNARGivesWay: what a narinfo tells of its file is not signed, so that
// one with a file that clients can't read may have come first.
func TestUselessNARGivesWay(t *testing.T) {
	good := nixtest.NewPackage("hello", 1000, nixtest.Compressed(nix.CompressionZstd, nixtest.Zstd), nixtest.SignedBy(key1))
	for name, bad := range map[string]nixtest.Package{
		"unreadable": nixtest.NewPackage("hello", 1000, nixtest.Compressed(nix.CompressionLZ4, func(nar []byte) []byte {
			return append(nixtest.LZ4(nil), nixtest.LZ4(nar)...)
		}), nixtest.SignedBy(key1)),
		"too large": nixtest.NewPackage("hello", 1000, nixtest.Compressed(nix.CompressionZstd, func(nar []byte) []byte {
			return append(nixtest.Zstd(nar), nixtest.Skippable(100_000)...)
		}), nixtest.SignedBy(key1)),
	} {
		t.Run(name, func(t *testing.T) {
			r, m := newReceiver()
			push(t, m, bad)
			m.Put(infoPath(bad).String(), bad.Text())
			body := push(t, m, good)
			wantOutcome(t, r, infoPath(good), body, Stored)
			wantStored(t, m, infoPath(good).String(), good.Text())
		})
	}
	t.Run("as good", func(t *testing.T) {
		first := nixtest.NewPackage("hello", 1000, nixtest.Compressed(nix.CompressionXZ, nixtest.XZ), nixtest.SignedBy(key1))
		r, m := newReceiver()
		push(t, m, first)
		m.Put(infoPath(first).String(), first.Text())
		wantOutcome(t, r, infoPath(good), push(t, m, good), Unchanged)
		wantStored(t, m, infoPath(first).String(), first.Text())
	})
}
