package nixtest

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"encoding/hex"
	"hash/crc32"
	"io"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/ulikunitz/xz"
	"github.com/ulikunitz/xz/lzma"

	"github.com/stevedores-org/nix-cache/caddymodule/nix"
)

// Compressors has a row for each compression that there is an encoder for: not
// for bzip2.
var Compressors = map[nix.Compression]func([]byte) []byte{
	nix.CompressionXZ:     XZ,
	nix.CompressionZstd:   Zstd,
	nix.CompressionBrotli: Brotli,
	nix.CompressionGzip:   Gzip,
	nix.CompressionLzip:   Lzip,
	nix.CompressionLZ4:    LZ4,
}

// ContentEncoders has a row for each Content-Encoding.
var ContentEncoders = map[string]func([]byte) []byte{"gzip": Gzip, "zstd": Zstd, "br": Brotli, "xz": XZ}

// XZ returns b compressed, and so do Zstd, Brotli, Gzip, Lzip and LZ4.
func XZ(b []byte) []byte {
	return Encode(b, func(w io.Writer) (io.WriteCloser, error) { return xz.NewWriter(w) })
}

func Zstd(b []byte) []byte {
	return Encode(b, func(w io.Writer) (io.WriteCloser, error) { return zstd.NewWriter(w) })
}

func Brotli(b []byte) []byte {
	const level = 2 // packs zeros a dozen times as fast as the default
	return Encode(b, func(w io.Writer) (io.WriteCloser, error) { return brotli.NewWriterLevel(w, level), nil })
}

func Gzip(b []byte) []byte {
	return Encode(b, func(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriter(w), nil })
}

func LZ4(b []byte) []byte {
	return Encode(b, func(w io.Writer) (io.WriteCloser, error) { return lz4.NewWriter(w), nil })
}

// Lzip writes two members, as parallel encoders do, unless one were empty.
func Lzip(b []byte) []byte {
	if len(b) < 2 {
		return lzipMember(b)
	}
	half := len(b) / 2
	return append(lzipMember(b[:half]), lzipMember(b[half:])...)
}

// lzipMember has a dictionary of 64 KiB
// (https://www.nongnu.org/lzip/manual/lzip_manual.html#File-format).
func lzipMember(b []byte) []byte {
	config := lzma.WriterConfig{DictCap: 1 << 16, EOSMarker: true, Properties: &lzma.Properties{LC: 3, LP: 0, PB: 2}}
	alone := Encode(b, func(w io.Writer) (io.WriteCloser, error) { return config.NewWriter(w) })
	const aloneHeader = 13
	out := append([]byte("LZIP\x01\x10"), alone[aloneHeader:]...)
	out = binary.LittleEndian.AppendUint32(out, crc32.ChecksumIEEE(b))
	out = binary.LittleEndian.AppendUint64(out, uint64(len(b)))
	return binary.LittleEndian.AppendUint64(out, uint64(len(out)+8))
}

// Bzip2OfZeros is 1 MiB of zeros, compressed.
func Bzip2OfZeros() []byte {
	return must(hex.DecodeString("425a683931415926535938571ce50008084000c0040008200030cc0529a60806c4201e2ee48a70a12070ae39ca"))
}

// Encode returns what an encoder makes of b.
func Encode(b []byte, encoder func(io.Writer) (io.WriteCloser, error)) []byte {
	var out bytes.Buffer
	w := must(encoder(&out))
	must(w.Write(b))
	must(0, w.Close())
	return out.Bytes()
}
