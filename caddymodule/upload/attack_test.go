package upload

import (
	"bytes"
	"fmt"
	"io"
	"testing"
	"testing/iotest"

	"github.com/stevedores-org/nix-cache/caddymodule/nix"
	"github.com/stevedores-org/nix-cache/caddymodule/nix/nixtest"
)

// What a narinfo shows by itself is with its parser's tests; here are the attacks
// that take a second file, or what is there already.

// A valid narinfo of one path can be put under another's name.
func TestAttack07OtherName(t *testing.T) {
	r, m := newReceiver()
	p, other := signed("hello", 1000), signed("other", 1000)
	push(t, m, p)
	push(t, m, other)
	wantRejected(t, r, infoPath(other), announced(p.Text()), Malformed)
	wantRejected(t, r, infoPath(p), announced(other.Text()), Malformed)
	wantOutcome(t, r, infoPath(p), announced(p.Text()), Stored)
}

// FileSize is not signed, but can be checked. Of Deriver nobody here knows better.
func TestAttack09UnsignedLies(t *testing.T) {
	p := nixtest.NewPackage("hello", 1000, nixtest.SignedBy(key1), nixtest.Compressed(nix.CompressionZstd, nixtest.Zstd))
	r, m := newReceiver()
	push(t, m, p)
	for _, lie := range []int64{1, p.NARInfo.FileSize - 1, p.NARInfo.FileSize + 1, p.NARInfo.NARSize, 1<<63 - 1} {
		lied := *p.NARInfo
		lied.FileSize = lie
		wantRejected(t, r, infoPath(p), announced(nixtest.Package{NARInfo: &lied}.Text()), Mismatch)
	}
	p.NARInfo.Deriver = nixtest.StorePath("evil.drv")
	wantOutcome(t, r, infoPath(p), announced(p.Text()), Stored)
}

// A file of another hash than its name's would make honest uploaders skip theirs.
func TestAttack10NARs(t *testing.T) {
	p := nixtest.NewPackage("hello", 100_000, nixtest.SignedBy(key1), nixtest.Compressed(nix.CompressionZstd, nixtest.Zstd))
	nar := p.NARInfo.NARPath()
	flipped := bytes.Clone(p.File)
	flipped[len(flipped)/2] ^= 1
	for _, attack := range []struct {
		name string
		body func() Body
		want Reason
	}{
		{"hash is not the name", func() Body { return announced(flipped) }, Mismatch},
		{"another file", func() Body { return announced(signed("other", 1000).File) }, Mismatch},
		{"truncated", func() Body { return announced(p.File[:len(p.File)-1]) }, Mismatch},
		{"truncated to nothing", func() Body { return announced(nil) }, Mismatch},
		{"truncated, and announced whole", func() Body { return Body{Reader: brokenOff(p.File[:1000]), Size: int64(len(p.File))} }, Incomplete},
		{"more than it should be", func() Body { return announced(append(bytes.Clone(p.File), 0)) }, Mismatch},
		{"decompressed", func() Body { return announced(p.NAR) }, Mismatch},
		{"encoded in gzip", func() Body { return encoded("gzip", nixtest.Gzip(p.File)) }, Malformed},
		{"encoded in xz", func() Body { return encoded("xz", nixtest.XZ(p.File)) }, Malformed},
		{"encoded twice", func() Body { return encoded("gzip, br", p.File) }, Malformed},
	} {
		for _, there := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/there=%v", attack.name, there), func(t *testing.T) {
				r, m := newReceiver()
				if there {
					m.Put(nar.String(), p.File)
				}
				wantRejected(t, r, nar, attack.body(), attack.want)
			})
		}
	}
}

func brokenOff(b []byte) io.Reader {
	return io.MultiReader(bytes.NewReader(b), iotest.ErrReader(io.ErrUnexpectedEOF))
}

// A narinfo goes nowhere without a NAR that decompresses to what was signed.
func TestAttack10NARInfoWithoutItsNAR(t *testing.T) {
	compress := nixtest.Compressed(nix.CompressionZstd, nixtest.Zstd)
	p := nixtest.NewPackage("hello", 1000, nixtest.SignedBy(key1), compress)
	path := p.NARInfo.URL()
	r, m := newReceiver()
	for name, file := range map[string][]byte{"absent": nil, "cut off": p.File[1:], "empty": {}} {
		t.Run(name, func(t *testing.T) {
			if file != nil {
				m.Put(path, file)
			}
			want := map[bool]Reason{true: NARMissing, false: Mismatch}[file == nil]
			wantRejected(t, r, infoPath(p), announced(p.Text()), want)
			m.Remove(path)
		})
	}
	m.Put(path, p.File)
	wantOutcome(t, r, infoPath(p), announced(p.Text()), Stored)
}

// What is there stays, whatever comes after it.
func TestAttack10Overwriting(t *testing.T) {
	r, m := newReceiver()
	p := signed("hello", 1000)
	wantOutcome(t, r, infoPath(p), push(t, m, p), Stored)
	divergent := nixtest.NewPackage("hello", 2000, nixtest.SignedBy(key2))
	wantOutcome(t, r, infoPath(p), push(t, m, divergent), Kept)
	otherReferences := nixtest.NewPackage("hello", 1000, nixtest.References(nixtest.StorePath("evil")), nixtest.SignedBy(key2))
	wantOutcome(t, r, infoPath(p), announced(otherReferences.Text()), Kept)
	unsigned := nixtest.NewPackage("hello", 2000)
	wantRejected(t, r, infoPath(p), announced(unsigned.Text()), Untrusted)
	wantRejected(t, r, p.NARInfo.NARPath(), announced(divergent.File), Mismatch)
	wantStored(t, m, infoPath(p).String(), p.Text())
	wantStored(t, m, p.NARInfo.URL(), p.File)
}
