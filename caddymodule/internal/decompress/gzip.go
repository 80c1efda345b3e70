package decompress

import (
	"bufio"
	"errors"
	"io"

	"github.com/klauspost/compress/gzip"
)

var (
	errGzipFlags   = errors.New("gzip: a header with unknown flags")
	errGzipPadding = errors.New("gzip: more empty members than anybody has a use for")
)

// gzipReader decodes the members of a gzip file one by one, to look at the
// header of each: the decoder takes flags that are reserved (RFC 1952, 2.3.1.2),
// and libarchive doesn't.
type gzipReader struct {
	in     *bufio.Reader
	member *gzip.Reader
	some   bool // has come out of the member
	empty  int  // members
}

func decodeGzip(in io.Reader) (io.ReadCloser, error) {
	z := &gzipReader{in: bufio.NewReader(in), member: new(gzip.Reader)}
	if err := z.open(); err != nil {
		return nil, err
	}
	return z, nil
}

// open begins the next member; io.EOF after the last.
func (z *gzipReader) open() error {
	const flags, reserved = 3, 0b111 << 5
	header, err := z.in.Peek(flags + 1)
	if len(header) == 0 {
		return err
	}
	if err == nil && header[flags]&reserved != 0 {
		return errGzipFlags
	}
	if err := z.member.Reset(z.in); err != nil {
		return unexpected(err)
	}
	z.member.Multistream(false)
	return nil
}

func (z *gzipReader) Read(p []byte) (int, error) {
	n, err := z.member.Read(p)
	z.some = z.some || n > 0
	if err == io.EOF {
		err = z.next()
	}
	return n, err
}

// next ends a member and begins the one after it.
func (z *gzipReader) next() error {
	const least = 20 // bytes of a member
	if !z.some {
		z.empty++
	}
	if z.some = false; z.empty > maxPadding/least {
		return errGzipPadding
	}
	return z.open()
}

func (z *gzipReader) Close() error { return z.member.Close() }

// unexpected is the error for a file that ends where it must not, if it is that.
func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
