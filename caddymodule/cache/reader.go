package cache

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"time"

	"github.com/stevedores-org/nix-cache/caddymodule/origin"
)

// fillReader follows a fill from any offset. Where the disk fails under the
// fill, it goes on with the origin.
type fillReader struct {
	ctx    context.Context
	fill   *fill
	offset int64
	bypass *originReader // nil as long as the disk is well
}

func (r *fillReader) Read(p []byte) (int, error) {
	for {
		if r.bypass != nil {
			return r.bypass.Read(p)
		}
		if r.offset >= r.fill.info.Size {
			return 0, io.EOF
		}
		n, changed, err := r.fill.available(r.offset)
		if err == nil && n > 0 {
			n, err = r.readAt(p[:min(int64(len(p)), n)])
			if err == nil {
				return int(n), nil
			}
		}
		var sick *diskError
		switch {
		case errors.As(err, &sick):
			r.bypass = &originReader{ctx: r.ctx, origin: r.fill.origin, path: r.fill.path.String(), info: r.fill.source, offset: r.offset}
			continue
		case err != nil:
			return 0, err
		}
		select {
		case <-changed:
		case <-r.ctx.Done():
			return 0, r.ctx.Err()
		}
	}
}

func (r *fillReader) readAt(p []byte) (int64, error) {
	n, err := r.fill.file.ReadAt(p, r.offset)
	if err != nil {
		return 0, &diskError{err}
	}
	r.offset += int64(n)
	return int64(n), nil
}

func (r *fillReader) Seek(offset int64, whence int) (int64, error) {
	if r.bypass != nil {
		return r.bypass.Seek(offset, whence)
	}
	return seek(&r.offset, r.fill.info.Size, offset, whence)
}

func (r *fillReader) Close() error {
	r.fill.leave()
	if r.bypass != nil {
		return r.bypass.Close()
	}
	return nil
}

// originReader reads a file straight from the origin, and opens it anew where
// its reader seeks.
type originReader struct {
	ctx    context.Context
	origin origin.Reader
	path   string
	info   origin.Info
	body   io.ReadCloser // at the offset at; nil: to be opened
	at     int64
	offset int64
}

func (r *originReader) Read(p []byte) (int, error) {
	if r.offset >= r.info.Size {
		return 0, io.EOF
	}
	if r.body != nil && r.at != r.offset {
		r.Close()
	}
	if r.body == nil {
		_, body, err := r.origin.Open(r.ctx, r.path, origin.OpenOptions{Offset: r.offset, IfMatch: r.info.ETag})
		if err != nil {
			return 0, err
		}
		r.body, r.at = body, r.offset
	}
	n, err := r.body.Read(p)
	r.offset += int64(n)
	r.at = r.offset
	if err == io.EOF && r.offset < r.info.Size {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

func (r *originReader) Seek(offset int64, whence int) (int64, error) {
	return seek(&r.offset, r.info.Size, offset, whence)
}

func (r *originReader) Close() error {
	if r.body == nil {
		return nil
	}
	err := r.body.Close()
	r.body = nil
	return err
}

// seek moves an offset as io.Seeker says.
func seek(at *int64, size, offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += *at
	case io.SeekEnd:
		offset += size
	}
	if offset < 0 {
		return 0, &fs.PathError{Op: "seek", Err: fs.ErrInvalid}
	}
	*at = offset
	return offset, nil
}

// brokenBodyError is a body that ended too early: worth another try from there.
type brokenBodyError struct{ err error }

func (e *brokenBodyError) Error() string { return e.err.Error() }

func (e *brokenBodyError) Unwrap() error { return e.err }

func asBroken(err error, broke **brokenBodyError) bool { return errors.As(err, broke) }

// diskError is the disk's failure, which is no reason to fail a client.
type diskError struct{ err error }

func (e *diskError) Error() string { return "disk tier: " + e.err.Error() }

func (e *diskError) Unwrap() error { return e.err }

// pause waits, unless the context ends first.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
