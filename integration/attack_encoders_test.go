package integration

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"encoding/hex"
	"hash/crc32"
	"io"

	"github.com/andybalholm/brotli"
	"github.com/pierrec/lz4/v4"
	"github.com/ulikunitz/xz"
	"github.com/ulikunitz/xz/lzma"

	"github.com/stevedores-org/nix-cache/caddymodule/nix"
)

// compressors pack whole NARs; bzip2 has no encoder in Go.
var compressors = map[nix.Compression]func([]byte) []byte{
	nix.CompressionXZ:     xzOf,
	nix.CompressionZstd:   zstdOf,
	nix.CompressionBrotli: brotliOf,
	nix.CompressionGzip:   gzipOf,
	nix.CompressionLzip:   lzipOf,
	nix.CompressionLZ4:    lz4Of,
}

// encoders has a row for each Content-Encoding.
var encoders = map[string]func([]byte) []byte{"gzip": gzipOf, "zstd": zstdOf, "br": brotliOf, "xz": xzOf}

func xzOf(b []byte) []byte {
	return packed(b, func(w io.Writer) (io.WriteCloser, error) { return xz.NewWriter(w) })
}

func gzipOf(b []byte) []byte {
	return packed(b, func(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriter(w), nil })
}

func brotliWriter(w io.Writer) io.WriteCloser { return brotli.NewWriterLevel(w, 2) }

func brotliOf(b []byte) []byte {
	return packed(b, func(w io.Writer) (io.WriteCloser, error) { return brotliWriter(w), nil })
}

func lz4Of(b []byte) []byte {
	return packed(b, func(w io.Writer) (io.WriteCloser, error) { return lz4.NewWriter(w), nil })
}

// lzipOf writes one member
// (https://www.nongnu.org/lzip/manual/lzip_manual.html#File-format) with a
// dictionary of 64 KiB.
func lzipOf(b []byte) []byte {
	config := lzma.WriterConfig{DictCap: 1 << 16, EOSMarker: true, Properties: &lzma.Properties{LC: 3, LP: 0, PB: 2}}
	alone := packed(b, func(w io.Writer) (io.WriteCloser, error) { return config.NewWriter(w) })
	const aloneHeader = 13
	out := append([]byte("LZIP\x01\x10"), alone[aloneHeader:]...)
	out = binary.LittleEndian.AppendUint32(out, crc32.ChecksumIEEE(b))
	out = binary.LittleEndian.AppendUint64(out, uint64(len(b)))
	return binary.LittleEndian.AppendUint64(out, uint64(len(out)+8))
}

// bzip2OfZeros packs 1 MiB of zeros.
func bzip2OfZeros() []byte {
	file, err := hex.DecodeString("425a683931415926535938571ce50008084000c0040008200030cc0529a60806c4201e2ee48a70a12070ae39ca")
	if err != nil {
		panic(err)
	}
	return file
}

func packed(b []byte, encoder func(io.Writer) (io.WriteCloser, error)) []byte {
	var out bytes.Buffer
	w, err := encoder(&out)
	if err == nil {
		_, err = w.Write(b)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		panic(err)
	}
	return out.Bytes()
}
