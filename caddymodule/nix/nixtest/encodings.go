package nixtest

import (
	"compress/gzip"
	"encoding/binary"
	"io"
	"strings"

	"github.com/stevedores-org/nix-cache/caddymodule/nix"
)

// Encoding is one of the many files that decompress to one NAR.
type Encoding struct {
	Name        string
	Compression nix.Compression
	File        func(nar []byte) []byte

	// Refused is a part of the text that says why a cache takes no such file;
	// "" if it takes it.
	Refused string

	// Fatal says that there are clients that can't read the file: Nix 2.8 aborts,
	// and mostly Nix 2.34 too.
	Fatal bool
}

// Encodings returns forms that encoders don't write by default, each taken if
// clients read it and what is in it for nothing is bounded.
func Encodings() []Encoding {
	half := func(compress func([]byte) []byte, between string) func([]byte) []byte {
		return func(b []byte) []byte {
			return join(compress(b[:len(b)/2]), []byte(between), compress(b[len(b)/2:]))
		}
	}
	around := func(before string, compress func([]byte) []byte, after string) func([]byte) []byte {
		return func(b []byte) []byte { return join([]byte(before), compress(b), []byte(after)) }
	}
	noLZ4, noZstd, noGzip := string(LZ4(nil)), string(Zstd(nil)), string(Gzip(nil))
	pzstd := Skippable(4)
	const lz4, zstd, xz, gzip, lzip = nix.CompressionLZ4, nix.CompressionZstd, nix.CompressionXZ, nix.CompressionGzip, nix.CompressionLzip
	return []Encoding{
		{"an empty frame first", lz4, around(noLZ4, LZ4, ""), "lz4: an empty frame", true},
		{"an empty frame between", lz4, half(LZ4, noLZ4), "lz4: something after the frame", true},
		{"a skippable frame first", lz4, around(pzstd, LZ4, ""), "lz4: no frame at the beginning", true},
		{"a skippable frame last", lz4, around("", LZ4, pzstd), "lz4: something after the frame", false},
		{"frames", lz4, half(LZ4, ""), "lz4: something after the frame", false},
		{"blocks that depend on each other", lz4, LZ4Linked, "lz4: a frame of an unknown version", false},

		{"frames, as of pzstd", zstd, func(b []byte) []byte { return join([]byte(pzstd), half(Zstd, pzstd)(b)) }, "", false},
		{"empty frames around", zstd, around(noZstd, Zstd, noZstd), "", false},
		{"a skippable frame of 60 kB", zstd, around(Skippable(60_000), Zstd, ""), "", false},
		{"a skippable frame of 100 kB", zstd, around("", Zstd, Skippable(100_000)), "FileSize", false},

		{"streams and padding", xz, around("", half(XZ, "\x00\x00\x00\x00"), strings.Repeat("\x00", 1000)), "", false},
		{"padding of 100 kB", xz, around("", XZ, strings.Repeat("\x00", 100_000)), "FileSize", false},

		{"members", gzip, half(Gzip, ""), "", false},
		{"empty members around", gzip, around(noGzip, Gzip, noGzip), "", false},
		{"a name and a comment", gzip, namedGzip, "", false},

		{"members", lzip, half(Lzip, ""), "", false},
	}
}

// Skippable is a frame for other programs, in zstd and LZ4 alike.
func Skippable(size int) string {
	return "\x50\x2a\x4d\x18" + string(binary.LittleEndian.AppendUint32(nil, uint32(size))) + strings.Repeat("x", size)
}

func namedGzip(b []byte) []byte {
	return Encode(b, func(w io.Writer) (io.WriteCloser, error) {
		z := gzip.NewWriter(w)
		z.Name, z.Comment = "x.nar", "a comment"
		return z, nil
	})
}

func join(parts ...[]byte) []byte {
	var all []byte
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}
