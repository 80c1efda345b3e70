package nixtest

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"encoding/hex"
	"hash/crc32"
	"io"
	"math/bits"
	"slices"

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

// LZ4Linked says that the blocks depend on each other, of which each is of 1000
// bytes: clients make something else of them.
func LZ4Linked(b []byte) []byte {
	const small, flags, descriptor, independent = 1000, 4, 6, 1 << 5
	file := Encode(nil, func(w io.Writer) (io.WriteCloser, error) {
		z := lz4.NewWriter(w)
		for block := range slices.Chunk(b, small) {
			must(z.Write(block))
			must(0, z.Flush())
		}
		return z, nil
	})
	file[flags] &^= independent
	file[descriptor] = byte(xxh32(file[flags:descriptor]) >> 8)
	return file
}

// xxh32 is xxHash32 of less than 4 bytes
// (https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md).
func xxh32(b []byte) uint32 {
	const prime1, prime2, prime3, prime5 = 0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D, 0x165667B1
	h := prime5 + uint32(len(b))
	for _, c := range b {
		h = bits.RotateLeft32(h+uint32(c)*prime5, 11) * prime1
	}
	h = (h ^ h>>15) * prime2
	h = (h ^ h>>13) * prime3
	return h ^ h>>16
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
