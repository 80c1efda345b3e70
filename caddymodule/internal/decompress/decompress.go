// Package decompress undoes the compressions that a binary cache's files come in.
// It bounds what a decoder takes of memory, and leaves it to its callers how much
// they read of what comes out.
package decompress

import (
	"compress/bzip2"
	"fmt"
	"io"

	"github.com/andybalholm/brotli"

	"github.com/stevedores-org/nix-cache/caddymodule/nix"
)

// What a decoder may take of memory for its window: the most that the
// encoders' highest levels ask for.
const (
	maxZstdWindow = 128 << 20
	maxXZDict     = 64 << 20
	maxLzipDict   = 64 << 20

	// MaxWindow is the most of them.
	MaxWindow = maxZstdWindow
)

// maxPadding is how many bytes of a file may be there for nothing, such as frames
// that are to be skipped: encoders pad to a block of a disk or a tape, or to
// nothing at all.
const maxPadding = 64 << 10

type decoder func(io.Reader) (io.ReadCloser, error)

// NewReader returns what in decompresses to. The caller closes it, which does not
// close in.
func NewReader(in io.Reader, c nix.Compression) (io.ReadCloser, error) {
	decode, known := decompressors[c]
	if !known {
		return nil, fmt.Errorf("decompress: there is no decoder for %s", c)
	}
	return decode(in)
}

// NewReaderWithin is NewReader for what nobody vouches for: a file of zstd, xz or
// lzip that asks for a window of more than so many bytes is an error. Decoders of
// the others take 16 MiB at most.
func NewReaderWithin(in io.Reader, c nix.Compression, window uint32) (io.ReadCloser, error) {
	switch c {
	case nix.CompressionZstd:
		return zstdWithin(min(window, maxZstdWindow))(in)
	case nix.CompressionXZ:
		return xzWithin(min(window, maxXZDict))(in)
	case nix.CompressionLzip:
		return lzipWithin(min(window, maxLzipDict))(in)
	default:
		return NewReader(in, c)
	}
}

// decompressors has a row for each compression of NARs.
var decompressors = map[nix.Compression]decoder{
	nix.CompressionNone:   plain,
	nix.CompressionXZ:     xzWithin(maxXZDict),
	nix.CompressionZstd:   zstdWithin(maxZstdWindow),
	nix.CompressionBzip2:  func(in io.Reader) (io.ReadCloser, error) { return plain(bzip2.NewReader(in)) },
	nix.CompressionBrotli: decodeBrotli,
	nix.CompressionGzip:   decodeGzip,
	nix.CompressionLzip:   lzipWithin(maxLzipDict),
	nix.CompressionLZ4:    decodeLZ4,
}

func plain(in io.Reader) (io.ReadCloser, error) { return io.NopCloser(in), nil }

func decodeBrotli(in io.Reader) (io.ReadCloser, error) { return plain(brotli.NewReader(in)) }
