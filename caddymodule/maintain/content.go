package maintain

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"io/fs"

	"github.com/stevedores-org/nix-cache/caddymodule/internal/content"
	"github.com/stevedores-org/nix-cache/caddymodule/nix"
	"github.com/stevedores-org/nix-cache/caddymodule/origin"
)

// checkContent reads a NAR, and compares it with what its narinfo says.
func (c *Checker) checkContent(ctx context.Context, r *Report, n *nix.NARInfo) error {
	in := &body{ctx: ctx, origin: c.Origin, path: n.URL(), size: n.FileSize}
	defer in.close()
	file := sha256.New()
	got, malformed := content.MeasureFor(ctx, n, io.TeeReader(in, file))
	_, _ = io.Copy(file, in) // what the decoder left, or did not get to; an error is in.err
	r.Bytes += in.offset
	if errors.Is(in.err, fs.ErrNotExist) || errors.Is(in.err, origin.ErrChanged) {
		r.problem("%s was deleted or replaced while it was read; verify it again", n.URL())
		return nil
	}
	if in.err != nil {
		return in.err
	}
	if ctx.Err() != nil {
		return ctx.Err() // not the NAR's fault
	}
	fileHash := nix.SHA256(file.Sum(nil))
	if fileHash != n.FileHash {
		r.problem("FileHash is %s, but %s has %s", n.FileHash, n.URL(), fileHash)
	} else if wrong := content.Mismatch(n, got, malformed); wrong != "" {
		r.problem("%s", wrong)
	}
	return nil
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
