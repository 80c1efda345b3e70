package nixtest_test

import (
	"bytes"
	"crypto/sha256"
	"io"
	"testing"

	"zombiezen.com/go/nix/nar"

	"github.com/stevedores-org/nix-cache/caddymodule/nix"
	"github.com/stevedores-org/nix-cache/caddymodule/nix/nixtest"
)

func TestNewPackage(t *testing.T) {
	key := nixtest.NewKey("test-1")
	lib := nixtest.NewPackage("lib-1.0", 0)
	for _, size := range []int{0, 1, 7, 8, 1000} {
		p := nixtest.NewPackage("hello-1.0", size,
			nixtest.References(nixtest.StorePath("hello-1.0"), lib.NARInfo.StorePath), nixtest.SignedBy(key))
		n, err := nix.ParseNARInfo(p.Text())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := nixtest.Trust(key).Verify(n); err != nil {
			t.Error(err)
		}
		if got := nix.SHA256(sha256.Sum256(p.NAR)); got != n.NARHash || int64(len(p.NAR)) != n.NARSize {
			t.Errorf("size %d: NAR of %d bytes and hash %v, narinfo says %d and %v", size, len(p.NAR), got, n.NARSize, n.NARHash)
		}
		checkNAR(t, p.NAR, int64(size))
	}
}

// checkNAR reads a NAR of one file with another implementation.
func checkNAR(t *testing.T, data []byte, size int64) {
	t.Helper()
	r := nar.NewReader(bytes.NewReader(data))
	header, err := r.Next()
	if err != nil {
		t.Fatal(err)
	}
	if !header.Mode.IsRegular() || header.Size != size {
		t.Errorf("NAR of %v with %d bytes, want a regular file of %d", header.Mode, header.Size, size)
	}
	if _, err := io.Copy(io.Discard, r); err != nil {
		t.Error(err)
	}
	if _, err := r.Next(); err != io.EOF {
		t.Errorf("after the file: %v, want io.EOF", err)
	}
}

func TestCompressed(t *testing.T) {
	p := nixtest.NewPackage("hello-1.0", 10, nixtest.Compressed(nix.CompressionXZ, func([]byte) []byte { return []byte("squeezed") }))
	if string(p.File) != "squeezed" || p.NARInfo.FileHash != sha256.Sum256(p.File) || p.NARInfo.FileSize != 8 {
		t.Errorf("file %q, narinfo %+v", p.File, p.NARInfo)
	}
	if _, err := nix.ParseNARInfo(p.Text()); err != nil {
		t.Error(err)
	}
}

func TestContentAddressed(t *testing.T) {
	a, b := nixtest.StorePath("a"), nixtest.StorePath("b")
	for _, p := range []nixtest.Package{
		nixtest.NewPackage("hello-1.0", 10, nixtest.ContentAddressed("text:sha256")),
		nixtest.NewPackage("hello-1.0", 10, nixtest.References(b, a), nixtest.ContentAddressed("text:sha256")),
		nixtest.NewPackage("hello-1.0", 10, nixtest.References(a, b), nixtest.ContentAddressed("fixed:r:sha256")),
		nixtest.NewPackage("hello-1.0", 10, nixtest.ContentAddressed("fixed:md5")),
	} {
		if _, err := nix.ParseNARInfo(p.Text()); err != nil {
			t.Error(err)
		}
	}
}

func TestStreamRepeats(t *testing.T) {
	s := nixtest.NewStream("big-1.0", 1<<20+3)
	for range 2 {
		hash := sha256.New()
		if n, err := io.Copy(hash, s.Reader()); err != nil || n != s.NARInfo.NARSize {
			t.Errorf("read %d bytes, error %v, want %d", n, err, s.NARInfo.NARSize)
		}
		if nix.SHA256(hash.Sum(nil)) != s.NARInfo.NARHash {
			t.Error("the bytes differ from the narinfo's hash")
		}
	}
}
