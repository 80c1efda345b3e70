// Package decompress undoes the compressions that a binary cache's files come in.
// It bounds what a decoder takes of memory, and leaves it to its callers how much
// they read of what comes out.
package decompress

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/therootcompany/xz"
	"github.com/ulikunitz/xz/lzma"

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
	nix.CompressionLZ4:    func(in io.Reader) (io.ReadCloser, error) { return plain(lz4.NewReader(in)) },
}

func plain(in io.Reader) (io.ReadCloser, error) { return io.NopCloser(in), nil }

func decodeBrotli(in io.Reader) (io.ReadCloser, error) { return plain(brotli.NewReader(in)) }

func decodeGzip(in io.Reader) (io.ReadCloser, error) { return gzip.NewReader(in) }

// zstdWithin decodes what asks for a window of at most so many bytes.
func zstdWithin(window uint32) decoder {
	return func(in io.Reader) (io.ReadCloser, error) {
		z, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(uint64(window)))
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	}
}

// xzWithin decodes what asks for a dictionary of at most so many bytes.
func xzWithin(dict uint32) decoder {
	return func(in io.Reader) (io.ReadCloser, error) {
		x, err := xz.NewReader(in, dict)
		if err != nil {
			return nil, err
		}
		return plain(x)
	}
}

// lzipWithin decodes a file of lzip members
// (https://www.nongnu.org/lzip/manual/lzip_manual.html#File-format), each of
// which is an LZMA stream between a header and a trailer, with a dictionary of at
// most so many bytes. Length and CRC in the trailer are not compared: the caller
// hashes what comes out.
func lzipWithin(dict uint32) decoder {
	return func(in io.Reader) (io.ReadCloser, error) {
		return plain(&lzipReader{in: bufio.NewReader(in), dict: dict})
	}
}

type lzipReader struct {
	in     *bufio.Reader
	dict   uint32
	member io.Reader // nil between members
	some   bool      // there was a member
}

const (
	lzipHeader  = 6
	lzipTrailer = 20
)

func (z *lzipReader) Read(p []byte) (int, error) {
	for {
		if z.member == nil {
			if err := z.open(); err != nil {
				return 0, err
			}
		}
		n, err := z.member.Read(p)
		if err == io.EOF {
			z.member = nil
			if _, err := z.in.Discard(lzipTrailer); err != nil {
				return n, io.ErrUnexpectedEOF
			}
			err = nil
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

// open begins the next member; io.EOF after the last.
func (z *lzipReader) open() error {
	header := make([]byte, lzipHeader)
	n, err := io.ReadFull(z.in, header)
	switch {
	case n == 0 && err == io.EOF && z.some:
		return io.EOF
	case err != nil:
		return io.ErrUnexpectedEOF
	case string(header[:5]) != "LZIP\x01":
		return errors.New("lzip: no member where one should begin")
	}
	size, err := lzipDict(header[5], z.dict)
	if err != nil {
		return err
	}
	// The header of a file of LZMA alone: lc, lp and pb as lzip has them
	// always, and a length that only the end of the stream tells.
	const properties = (2*5+0)*9 + 3
	alone := binary.LittleEndian.AppendUint32([]byte{properties}, size)
	alone = binary.LittleEndian.AppendUint64(alone, 1<<64-1)
	z.member, err = lzma.NewReader(&prefixed{prefix: bytes.NewReader(alone), rest: z.in})
	z.some = true
	return err
}

// lzipDict decodes the coded dictionary size: a power of 2, less some sixteenths.
func lzipDict(coded byte, most uint32) (uint32, error) {
	bits, sixteenths := coded&0x1f, uint32(coded>>5)
	if bits < 12 || bits > 29 {
		return 0, fmt.Errorf("lzip: dictionary size %#x", coded)
	}
	size := uint32(1) << bits
	size -= size / 16 * sixteenths
	if size > most {
		return 0, fmt.Errorf("lzip: a dictionary of %d bytes is more than the %d that are allowed", size, most)
	}
	return size, nil
}

// prefixed reads the prefix, then the rest. It reads by bytes, so that the LZMA
// decoder takes no more than its stream.
type prefixed struct {
	prefix *bytes.Reader
	rest   *bufio.Reader
}

func (p *prefixed) Read(b []byte) (int, error) {
	if p.prefix.Len() > 0 {
		return p.prefix.Read(b)
	}
	return p.rest.Read(b)
}

func (p *prefixed) ReadByte() (byte, error) {
	if p.prefix.Len() > 0 {
		return p.prefix.ReadByte()
	}
	return p.rest.ReadByte()
}
