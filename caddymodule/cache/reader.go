package cache

import (
	"context"
	"crypto/sha256"
	"errors"
	"hash"
	"io"
	"io/fs"
	"time"

	"github.com/stevedores-org/nix-cache/caddymodule/nix"
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
			r.bypass = newOriginReader(r.ctx, r.fill.in, r.fill.path, r.fill.source, nil)
			r.bypass.offset = r.offset
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

// originReader reads a file straight from the origin, opens it anew where its
// reader seeks, and takes it up again where a body breaks off. Who reads all of
// it, in order, does not get the end of one that is not what its name says.
type originReader struct {
	ctx    context.Context
	in     *Namespace
	path   nix.CachePath
	info   origin.Info
	body   io.ReadCloser // at the offset at; nil: to be opened
	at     int64
	offset int64
	breaks int   // in a row
	since  int64 // bytes since the last one

	hash    hash.Hash // of the first hashed bytes; nil if there is nothing to compare it with
	hashed  int64
	damaged error // that hash is not the one in the name
}

func newOriginReader(ctx context.Context, n *Namespace, p nix.CachePath, info origin.Info, body io.ReadCloser) *originReader {
	r := &originReader{ctx: ctx, in: n, path: p, info: info, body: body}
	if !kinds[p.Kind()].mutable {
		r.hash = sha256.New()
	}
	return r
}

func (r *originReader) Read(p []byte) (int, error) {
	for {
		switch {
		case r.damaged != nil:
			return 0, r.damaged
		case r.offset >= r.info.Size:
			return 0, io.EOF
		}
		n, err := r.readOnce(p)
		if n > 0 {
			return r.checked(p[:n])
		}
		var broke *brokenBodyError
		if !asBroken(err, &broke) {
			return 0, err
		}
		if err := r.afterBreak(broke.err); err != nil {
			return 0, err
		}
	}
}

// afterBreak waits before a body is opened again, or gives up.
func (r *originReader) afterBreak(err error) error {
	if r.since >= minProgress {
		r.breaks = 0
	}
	if r.breaks >= maxBreaks {
		return unavailable(r.path, err)
	}
	delay := breakDelay << r.breaks
	r.breaks++
	r.since = 0
	return pause(r.ctx, delay)
}

// readOnce reads from the body, after opening it if need be. Where it has read
// something it returns no error: that comes again.
func (r *originReader) readOnce(p []byte) (int, error) {
	if r.body != nil && r.at != r.offset {
		r.Close()
	}
	if r.body == nil {
		info, body, err := r.in.origin.Open(r.ctx, r.path.String(), origin.OpenOptions{Offset: r.offset, IfMatch: r.info.ETag})
		if err != nil {
			return 0, orBroken(err)
		}
		r.body, r.at = body, r.offset
		if info.Size != r.info.Size {
			return 0, origin.ErrChanged
		}
	}
	n, err := r.body.Read(p[:min(int64(len(p)), r.info.Size-r.offset)])
	r.at += int64(n)
	if n > 0 || err == nil {
		return n, nil
	}
	r.Close()
	return 0, &brokenBodyError{err}
}

// checked moves on by what has been read, unless it is the end of a whole that
// has the wrong hash.
func (r *originReader) checked(p []byte) (int, error) {
	if r.hash != nil && r.offset == r.hashed {
		r.hash.Write(p)
		r.hashed += int64(len(p))
		if r.hashed == r.info.Size {
			r.damaged = checkHash(r.path, r.hash)
		}
		if r.damaged != nil {
			r.in.damaged(r.path, r.damaged)
			return 0, r.damaged
		}
	}
	r.offset += int64(len(p))
	r.since += int64(len(p))
	return len(p), nil
}

// damaged notes that a file is not passed through, or not to its end.
func (n *Namespace) damaged(p nix.CachePath, err error) {
	n.counters.mismatched.Add(1)
	n.log.Error("not passed through to its end", "path", p.String(), "error", err)
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

// orBroken takes a body that can't be had just now for one that broke at once:
// for clients that have the bytes before it, it is the same.
func orBroken(err error) error {
	var unavailable *origin.UnavailableError
	if errors.As(err, &unavailable) {
		return &brokenBodyError{err}
	}
	return err
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
