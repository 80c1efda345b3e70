package upload

import (
	"errors"
	"io"

	"github.com/stevedores-org/nix-cache/caddymodule/internal/decompress"
	"github.com/stevedores-org/nix-cache/caddymodule/nix"
)

// readDecoded reads a whole small body, at most max bytes after decoding.
// Whatever is wrong with it is a *RejectedError.
func readDecoded(body Body, max int64) ([]byte, error) {
	decoded, err := decodeWithin(body, max)
	if err != nil {
		return nil, err
	}
	defer decoded.Close()
	b, err := io.ReadAll(io.LimitReader(decoded, max+1))
	if err != nil {
		return nil, undecodable(body.Encoding, err)
	}
	if int64(len(b)) > max {
		return nil, tooLarge(max)
	}
	return b, nil
}

// decodeWithin undoes the Content-Encoding of a body that has at most max bytes
// as sent. What it decodes to is the caller's to bound.
func decodeWithin(body Body, max int64) (io.ReadCloser, error) {
	if body.Size > max {
		return nil, tooLarge(max)
	}
	body.Reader = &sized{r: clientReader{body.Reader}, left: max, max: max}
	return decodeBody(body)
}

// undecodable is the error of a decoder, unless it is the body's own.
func undecodable(encoding string, err error) error {
	var rejected *RejectedError
	if errors.As(err, &rejected) {
		return rejected
	}
	return reject(Malformed, "Content-Encoding %s: the body can't be decoded: %v", encoding, err)
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

// decodeBody undoes the Content-Encoding, named as Nix names its compressions or
// as HTTP does.
func decodeBody(body Body) (io.ReadCloser, error) {
	compression, known := encodings[body.Encoding]
	if !known {
		return nil, reject(Malformed, "Content-Encoding %.40q is not supported: use zstd, br, gzip, xz, bzip2 or none", body.Encoding)
	}
	decoded, err := decompress.NewReaderWithin(body.Reader, compression, maxEncodedWindow)
	if err != nil {
		return nil, undecodable(body.Encoding, err)
	}
	return decoded, nil
}

// maxEncodedWindow is the most memory, in bytes, that a body may ask for to be
// decoded, however small it is: RFC 9659's limit for zstd, and what xz asks for
// by default.
const maxEncodedWindow = 8 << 20

var encodings = map[string]nix.Compression{
	"":         nix.CompressionNone,
	"identity": nix.CompressionNone,
	"none":     nix.CompressionNone,
	"zstd":     nix.CompressionZstd,
	"br":       nix.CompressionBrotli,
	"gzip":     nix.CompressionGzip,
	"xz":       nix.CompressionXZ,
	"bzip2":    nix.CompressionBzip2,
}
