package maintain

import (
	"context"
	"crypto/sha256"
	"errors"
	"hash"
	"io"
	"io/fs"

	"github.com/stevedores-org/nix-cache/caddymodule/internal/decompress"
	"github.com/stevedores-org/nix-cache/caddymodule/nix"
	"github.com/stevedores-org/nix-cache/caddymodule/origin"
)

// checkContent reads a NAR, and compares it with what its narinfo says.
func (c *Checker) checkContent(ctx context.Context, r *Report, n *nix.NARInfo) error {
	in := &body{ctx: ctx, origin: c.Origin, path: n.URL(), size: n.FileSize}
	defer in.close()
	file := sha256.New()
	narHash, narSize, malformed := measure(io.TeeReader(in, file), n)
	_, _ = io.Copy(file, in) // what the decoder left, or did not get to; an error is in.err
	r.Bytes += in.offset
	if errors.Is(in.err, fs.ErrNotExist) || errors.Is(in.err, origin.ErrChanged) {
		r.problem("%s was deleted or replaced while it was read; verify it again", n.URL())
		return nil
	}
	if in.err != nil {
		return in.err
	}
	fileHash := nix.SHA256(file.Sum(nil))
	switch {
	case fileHash != n.FileHash:
		r.problem("FileHash is %s, but %s has %s", n.FileHash, n.URL(), fileHash)
	case malformed != nil:
		r.problem("%s can't be decompressed as %s: %v", n.URL(), n.Compression, malformed)
	case narSize > n.NARSize:
		r.problem("NarSize is %d, but %s decompresses to more", n.NARSize, n.URL())
	case narSize != n.NARSize:
		r.problem("NarSize is %d, but %s decompresses to %d bytes", n.NARSize, n.URL(), narSize)
	case narHash != n.NARHash:
		r.problem("NarHash is %s, but %s decompresses to %s", n.NARHash, n.URL(), narHash)
	}
	return nil
}

// measure decompresses a NAR up to one byte more than it should have.
func measure(in io.Reader, n *nix.NARInfo) (nix.SHA256, int64, error) {
	decoded, err := decompress.NewReader(in, n.Compression)
	if err != nil {
		return nix.SHA256{}, 0, err
	}
	defer decoded.Close()
	var sum hash.Hash = sha256.New()
	size, err := io.Copy(sum, io.LimitReader(decoded, n.NARSize+1))
	return nix.SHA256(sum.Sum(nil)), size, err
}

// maxBreaks is how often the body of one object may break off.
const maxBreaks = 10

// body reads an object, and reads on where the origin's body breaks off.
type body struct {
	ctx     context.Context
	origin  origin.Reader
	path    string
	size    int64
	offset  int64
	version string // of what was read so far
	breaks  int
	current io.ReadCloser
	err     error // that ended it, if not its end did
}

func (b *body) Read(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	if b.current == nil {
		if b.offset > 0 && b.offset >= b.size {
			return 0, io.EOF // it broke off just there
		}
		if b.err = b.open(); b.err != nil {
			return 0, b.err
		}
	}
	n, err := b.current.Read(p)
	b.offset += int64(n)
	if err == nil || err == io.EOF {
		return n, err
	}
	b.close()
	if b.breaks++; b.breaks > maxBreaks || b.ctx.Err() != nil {
		b.err = &origin.UnavailableError{Op: "read", Path: b.path, Err: err}
		return n, b.err
	}
	return n, nil
}

func (b *body) open() error {
	return retry(b.ctx, func() error {
		info, current, err := b.origin.Open(b.ctx, b.path, origin.OpenOptions{Offset: b.offset, IfMatch: b.version})
		b.current, b.version = current, info.ETag
		return err
	})
}

func (b *body) close() {
	if b.current != nil {
		b.current.Close()
		b.current = nil
	}
}
