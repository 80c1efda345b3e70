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
		return nil, reject(TooLarge, "larger than the %d bytes that a file of this kind can have", max)
	}
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
		return nil, reject(TooLarge, "larger than the %d bytes that a file of this kind can have", max)
	}
	return b, nil
}

// decoder undoes the Content-Encoding, named as Nix names its compressions or
// as HTTP does.
func decoder(body Body) (io.ReadCloser, error) {
	in := clientReader{body}
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
		return nil, reject(Malformed, "Content-Encoding %q is not supported: use zstd, br, gzip, xz or none", body.Encoding)
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
