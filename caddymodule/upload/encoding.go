package upload

import (
	"compress/gzip"
	"errors"
	"io"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/zstd"
	"github.com/therootcompany/xz"
)

// What a decoder may take of memory for its window: the most that the
// encoders' ordinary levels ask for.
const (
	maxZstdWindow = 8 << 20
	maxXZDict     = 64 << 20
)

// readDecoded reads a whole small body, at most max bytes after decoding.
// Whatever is wrong with it is a *RejectedError.
func readDecoded(body Body, max int64) ([]byte, error) {
	if body.Size > max {
		return nil, tooLarge(max)
	}
	body.Reader = &sized{r: clientReader{body.Reader}, left: max, max: max}
	decoded, err := decoder(body)
	if err != nil {
		return nil, err
	}
	defer decoded.Close()
	b, err := io.ReadAll(io.LimitReader(decoded, max+1))
	var rejected *RejectedError
	switch {
	case errors.As(err, &rejected):
		return nil, rejected
	case err != nil:
		return nil, reject(Malformed, "Content-Encoding %s: the body can't be decoded: %v", body.Encoding, err)
	case int64(len(b)) > max:
		return nil, tooLarge(max)
	}
	return b, nil
}

func tooLarge(max int64) error {
	return reject(TooLarge, "larger than the %d bytes that a file of this kind can have", max)
}

// sized refuses a body that goes on after max bytes, however little they decode
// to: a decoder reads through empty frames for ever.
type sized struct {
	r         io.Reader
	left, max int64
}

func (s *sized) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if s.left -= int64(n); s.left < 0 {
		return 0, tooLarge(s.max)
	}
	return n, err
}

// decoder undoes the Content-Encoding, named as Nix names its compressions or
// as HTTP does.
func decoder(body Body) (io.ReadCloser, error) {
	in := body.Reader
	var out io.Reader
	var err error
	switch body.Encoding {
	case "", "identity", "none":
		return io.NopCloser(in), nil
	case "zstd":
		var z *zstd.Decoder
		if z, err = zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxZstdWindow)); err == nil {
			return z.IOReadCloser(), nil
		}
	case "br":
		return io.NopCloser(brotli.NewReader(in)), nil
	case "gzip":
		out, err = gzip.NewReader(in)
	case "xz":
		out, err = xz.NewReader(in, maxXZDict)
	default:
		return nil, reject(Malformed, "Content-Encoding %.40q is not supported: use zstd, br, gzip, xz or none", body.Encoding)
	}
	var rejected *RejectedError
	switch {
	case errors.As(err, &rejected):
		return nil, rejected
	case err != nil:
		return nil, reject(Malformed, "Content-Encoding %s: the body can't be decoded: %v", body.Encoding, err)
	}
	return io.NopCloser(out), nil
}
