// Package content tells what the file of a NAR is once it is decompressed, which
// is what a narinfo's signature is about, and whether a narinfo says so.
package content

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	"github.com/stevedores-org/nix-cache/caddymodule/internal/decompress"
	"github.com/stevedores-org/nix-cache/caddymodule/nix"
)

// Content is what a file decompresses to.
type Content struct {
	Hash nix.SHA256
	Size int64 // bytes
}

// ErrTooLong is Measure's for a file that decompresses to more than it should.
var ErrTooLong = errors.New("it decompresses to more")

const copyBuffer = 256 << 10

// Measure decompresses a file that asks for a window of at most so many bytes: to
// its end, or until check, which is told how many bytes have come out of it,
// returns an error, or until the context ends, whose error it returns then: also
// in a file that nothing comes out of, which check is not asked about.
func Measure(ctx context.Context, file io.Reader, c nix.Compression, window uint32, check func(size int64) error) (Content, error) {
	got, err := measure(ctx, file, c, window, check)
	if ctx.Err() != nil {
		return Content{}, ctx.Err() // whatever the decoder made of it
	}
	return got, err
}

func measure(ctx context.Context, file io.Reader, c nix.Compression, window uint32, check func(size int64) error) (Content, error) {
	decoded, err := decompress.NewReaderWithin(&within{ctx, file}, c, window)
	if err != nil {
		return Content{}, err
	}
	defer decoded.Close()
	sum := sha256.New()
	size, err := io.CopyBuffer(sum, &within{ctx, &checked{r: decoded, check: check}}, make([]byte, copyBuffer))
	if err != nil {
		return Content{}, err
	}
	return Content{nix.SHA256(sum.Sum(nil)), size}, nil
}

// MeasureFor decompresses the file that a narinfo describes, to no more than
// that says.
func MeasureFor(ctx context.Context, n *nix.NARInfo, file io.Reader) (Content, error) {
	return Measure(ctx, file, n.Compression, decompress.MaxWindow, func(size int64) error {
		if size > n.NARSize {
			return ErrTooLong
		}
		return nil
	})
}

// within reads until the context ends.
type within struct {
	ctx context.Context
	r   io.Reader
}

func (w *within) Read(p []byte) (int, error) {
	if err := w.ctx.Err(); err != nil {
		return 0, err
	}
	return w.r.Read(p)
}

// checked reads until check says no.
type checked struct {
	r     io.Reader
	size  int64
	check func(size int64) error
}

func (c *checked) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.size += int64(n)
	if refused := c.check(c.size); refused != nil {
		return n, refused
	}
	return n, err
}

// Mismatch says in one line what a narinfo tells wrongly of its NAR, given what
// the NAR was measured to be, or why it could not be. It is "" if all is right.
func Mismatch(n *nix.NARInfo, got Content, err error) string {
	switch {
	case errors.Is(err, ErrTooLong):
		return fmt.Sprintf("NarSize is %d, but %s decompresses to more", n.NARSize, n.URL())
	case err != nil:
		return fmt.Sprintf("%s can't be decompressed as %s: %v", n.URL(), n.Compression, err)
	case got.Size != n.NARSize:
		return fmt.Sprintf("NarSize is %d, but %s decompresses to %d bytes", n.NARSize, n.URL(), got.Size)
	case got.Hash != n.NARHash:
		return fmt.Sprintf("NarHash is %s, but %s decompresses to %s", n.NARHash, n.URL(), got.Hash)
	}
	return ""
}
