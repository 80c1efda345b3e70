package content

import (
	"bytes"
	"io"
	"os"
	"testing"

	ulikunitz "github.com/ulikunitz/xz"

	"github.com/stevedores-org/nix-cache/caddymodule/internal/decompress"
	"github.com/stevedores-org/nix-cache/caddymodule/nix"
	"github.com/stevedores-org/nix-cache/caddymodule/nix/nixtest"
)

// BenchmarkDecompress is the cost of measuring a NAR, in MB of the NAR: of a
// program, the test itself. SHA-256 alone is the row none.
func BenchmarkDecompress(b *testing.B) {
	program, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	data, err := os.ReadFile(program)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("none", func(b *testing.B) {
		b.SetBytes(int64(len(data)))
		for b.Loop() {
			if _, err := Measure(b.Context(), bytes.NewReader(data), nix.CompressionNone, decompress.MaxWindow, func(int64) error { return nil }); err != nil {
				b.Fatal(err)
			}
		}
	})
	for c, compress := range nixtest.Compressors {
		b.Run(c.String(), func(b *testing.B) {
			benchmarkDecoder(b, data, compress(data), func(in io.Reader) (io.Reader, error) { return decompress.NewReader(in, c) })
		})
	}
	b.Run("xz by ulikunitz", func(b *testing.B) {
		benchmarkDecoder(b, data, nixtest.XZ(data), func(in io.Reader) (io.Reader, error) { return ulikunitz.NewReader(in) })
	})
}

func benchmarkDecoder(b *testing.B, data, compressed []byte, decode func(io.Reader) (io.Reader, error)) {
	b.SetBytes(int64(len(data)))
	b.ResetTimer()
	for b.Loop() {
		decoded, err := decode(bytes.NewReader(compressed))
		if err != nil {
			b.Fatal(err)
		}
		n, err := io.Copy(struct{ io.Writer }{io.Discard}, decoded)
		if err != nil || n != int64(len(data)) {
			b.Fatalf("%d bytes of %d, %v", n, len(data), err)
		}
		if c, ok := decoded.(io.Closer); ok {
			c.Close()
		}
	}
}
