package decompress

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/ulikunitz/xz/lzma"
)

// lzipWithin decodes a file of lzip members
// (https://www.nongnu.org/lzip/manual/lzip_manual.html#File-format), each of
// which is an LZMA stream between a header and a trailer, with a dictionary of at
// most so many bytes.
func lzipWithin(dict uint32) decoder {
	return func(in io.Reader) (io.ReadCloser, error) {
		return plain(&lzipReader{in: countedReader{in: bufio.NewReader(in)}, dict: dict})
	}
}

// lzipReader allocates the dictionary of each member anew, as the decoder has it.
// That is what members cost that hold next to nothing, so that the dictionaries
// together may take no more than the first may, and what the file is and
// decompresses to warrants: a member of lzip's and plzip's has one no larger than
// its data.
type lzipReader struct {
	in     countedReader
	dict   uint32
	dicts  int64 // bytes of all dictionaries so far
	out    int64 // bytes of all members so far
	member *lzipMember
	some   bool // there was a member
}

const (
	lzipHeader  = 6
	lzipTrailer = 20

	// lzipDictRatio is how many bytes of dictionary each byte of the file
	// warrants: it costs more to decode it than to clear those.
	lzipDictRatio = 64
)

var (
	errLzipHeader  = errors.New("lzip: no member where one should begin")
	errLzipEmpty   = errors.New("lzip: an empty member beside others")
	errLzipDicts   = errors.New("lzip: the members' dictionaries are too large for what is in them")
	errLzipTrailer = errors.New("lzip: a member's trailer tells another CRC or size than it has")
)

// lzipMember is the member that is being read.
type lzipMember struct {
	lzma  io.Reader
	start int64 // in the file
	size  int64 // bytes decoded
	crc   uint32
}

// Read returns nothing, without an error, at the start and the end of a member.
func (z *lzipReader) Read(p []byte) (int, error) {
	if z.member == nil {
		return 0, z.open()
	}
	n, err := z.member.lzma.Read(p)
	z.out += int64(n)
	z.member.size += int64(n)
	z.member.crc = crc32.Update(z.member.crc, crc32.IEEETable, p[:n])
	if err == io.EOF {
		err = z.close()
	}
	return n, err
}

// open begins the next member; io.EOF after the last.
func (z *lzipReader) open() error {
	start := z.in.read
	header := make([]byte, lzipHeader)
	n, err := io.ReadFull(&z.in, header)
	switch {
	case n == 0 && err == io.EOF && z.some:
		return io.EOF
	case err != nil:
		return unexpected(err)
	case string(header[:5]) != "LZIP\x01":
		return errLzipHeader
	case z.some && z.out == 0: // the first was empty
		return errLzipEmpty
	}
	size, err := lzipDict(header[5], z.dict)
	if err != nil {
		return err
	}
	if z.dicts += int64(size); z.dicts > int64(z.dict)+lzipDictRatio*z.in.read+z.out {
		return errLzipDicts
	}
	decoded, err := z.decode(size)
	z.member, z.some = &lzipMember{lzma: decoded, start: start}, true
	return unexpected(err)
}

// decode returns what the LZMA stream decodes to that comes next.
func (z *lzipReader) decode(dict uint32) (io.Reader, error) {
	// The header of a file of LZMA alone: lc, lp and pb as lzip has them
	// always, and a length that only the end of the stream tells.
	const properties = (2*5+0)*9 + 3
	alone := binary.LittleEndian.AppendUint32([]byte{properties}, dict)
	alone = binary.LittleEndian.AppendUint64(alone, 1<<64-1)
	return lzma.NewReader(&prefixed{prefix: bytes.NewReader(alone), rest: &z.in})
}

// close ends the member: the data have to be what its trailer tells.
func (z *lzipReader) close() error {
	trailer := make([]byte, lzipTrailer)
	if _, err := io.ReadFull(&z.in, trailer); err != nil {
		return unexpected(err)
	}
	m := z.member
	z.member = nil
	crc, size, length := binary.LittleEndian.Uint32(trailer), binary.LittleEndian.Uint64(trailer[4:]), binary.LittleEndian.Uint64(trailer[12:])
	if crc != m.crc || size != uint64(m.size) || length != uint64(z.in.read-m.start) {
		return errLzipTrailer
	}
	if m.size == 0 && z.out > 0 {
		return errLzipEmpty
	}
	return nil
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

// countedReader counts what is read of it, by bytes so that the LZMA decoder takes
// no more than its stream.
type countedReader struct {
	in   *bufio.Reader
	read int64
}

func (c *countedReader) Read(p []byte) (int, error) {
	n, err := c.in.Read(p)
	c.read += int64(n)
	return n, err
}

func (c *countedReader) ReadByte() (byte, error) {
	b, err := c.in.ReadByte()
	if err == nil {
		c.read++
	}
	return b, err
}

// prefixed reads the prefix, then the rest.
type prefixed struct {
	prefix *bytes.Reader
	rest   *countedReader
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
