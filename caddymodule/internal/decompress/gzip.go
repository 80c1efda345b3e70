package decompress

import (
	"bufio"
	"errors"
	"io"

	"github.com/klauspost/compress/gzip"
)

var errGzipFlags = errors.New("gzip: a header with unknown flags")

// gzipReader decodes the members of a gzip file one by one, to look at the
// header of each: the decoder takes flags that are reserved (RFC 1952, 2.3.1.2),
// and libarchive doesn't.
type gzipReader struct {
	in     *bufio.Reader
	member *gzip.Reader
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
	if err == io.EOF {
		err = z.open()
	}
	return n, err
}

func (z *gzipReader) Close() error { return z.member.Close() }

// unexpected is the error for a file that ends where it must not, if it is that.
func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
