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
	from   int64 // where its reader began
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
			if err := r.leaveDisk(); err != nil {
				return 0, err
			}
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

func (r *fillReader) leaveDisk() (err error) {
	r.bypass, err = r.fill.in.goOn(r.ctx, r.fill.path, r.fill.source, r.fill.file, stretch{r.from, r.offset})
	return err
}

func (r *fillReader) Seek(offset int64, whence int) (int64, error) {
	if r.bypass != nil {
		return r.bypass.Seek(offset, whence)
	}
	at, err := seek(&r.offset, r.fill.info.Size, offset, whence)
	r.from = r.offset
	return at, err
}

func (r *fillReader) Close() error {
	r.fill.leave()
	if r.bypass != nil {
		return r.bypass.Close()
	}
	return nil
}

// originReader reads a file straight from the origin, opens it anew where its
// reader seeks or has not come back for long, and takes it up again where a body
// breaks off. Who reads all of it, in order, does not get the end of one that is
// not what its name says.
type originReader struct {
	ctx    context.Context
	in     *Namespace
	path   nix.CachePath
	info   origin.Info
	upTo   int64 // where bodies end that begin before it: no more is wanted
	watch  *watch
	offset int64
	held   held
	pace   pace  // of its client since the last opening
	breaks int   // in a row
	since  int64 // bytes since the last one

	hash     hash.Hash // of the first hashed bytes; nil if there is nothing to compare it with
	hashed   int64
	fromDisk int64 // how many of them came from the disk
	damaged  error // that hash is not the one in the name
}

// newOriginReader takes over the watch.
func newOriginReader(ctx context.Context, n *Namespace, p nix.CachePath, info origin.Info, w *watch) *originReader {
	r := &originReader{ctx: ctx, in: n, path: p, info: info, upTo: info.Size, watch: w}
	if !kinds[p.Kind()].mutable {
		r.hash = sha256.New()
	}
	return r
}

// begin takes over a body that is open already, with what is wanted.
func (r *originReader) begin(body io.ReadCloser, want Wanted) {
	if want.Length > 0 {
		r.upTo = min(want.Offset+want.Length, r.info.Size)
	}
	at := min(want.Offset, r.info.Size)
	r.held.put(r.stream(body, at, max(r.upTo-at, 0)))
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

// readOnce reads from what is under way, or else opens something. Where it has
// read something it returns no error: that comes again.
func (r *originReader) readOnce(p []byte) (int, error) {
	b := r.underWay()
	if b == nil {
		var err error
		if b, err = r.open(); err != nil {
			return 0, orBroken(err)
		}
	}
	n, err := b.Read(p[:min(int64(len(p)), b.end-b.at)])
	b.at += int64(n)
	r.pace.flowed += int64(n)
	if b.at == b.end || n == 0 && err != nil { // nobody waits for its client
		b.Close()
		b = nil
	}
	r.held.put(b)
	if n > 0 || err == nil {
		return n, nil
	}
	return 0, &brokenBodyError{err}
}

// underWay returns what can be read from; nil if there is nothing, or it is not
// for a client as slow as this one.
func (r *originReader) underWay() *passage {
	b, away := r.held.take()
	r.pace.away += away
	if b == nil {
		return nil
	}
	_, inMemory := b.ReadCloser.(*piece)
	measured := !inMemory && r.pace.away >= paceWindow
	if b.at != r.offset || measured && r.tooSlow() {
		b.Close()
		return nil
	}
	if measured {
		r.pace = pace{}
	}
	return b
}

// tooSlow reports whether the client is too slow to keep a body waiting.
func (r *originReader) tooSlow() bool { return r.in.crowded() && r.pace.slow() }

// open opens the rest of what is wanted, or a piece of it if the client is slow.
func (r *originReader) open() (*passage, error) {
	slow := r.tooSlow()
	r.pace = pace{}
	length := r.info.Size - r.offset
	if r.upTo > r.offset {
		length = r.upTo - r.offset
	}
	if slow {
		return r.openPiece(min(length, pieceSize))
	}
	body, err := r.openBody(length)
	if err != nil {
		return nil, err
	}
	return r.stream(body, r.offset, length), nil
}

func (r *originReader) stream(body io.ReadCloser, at, length int64) *passage {
	return &passage{body, at, at + length, r.in.bodyPatience}
}

// openPiece brings a piece into memory, and keeps nothing at the origin.
func (r *originReader) openPiece(length int64) (*passage, error) {
	pieces := r.in.cache.pieces
	piece, err := pieces.take(r.ctx)
	if err != nil {
		return nil, err
	}
	body, err := r.openBody(length)
	if err != nil {
		piece.Close()
		return nil, err
	}
	defer body.Close()
	piece.fill(body, length)
	return &passage{piece, r.offset, r.offset + length, pieces.patience}, nil
}

// openBody opens length bytes from the offset on.
func (r *originReader) openBody(length int64) (io.ReadCloser, error) {
	opts := origin.OpenOptions{Offset: r.offset, Length: length, IfMatch: r.info.ETag}
	if r.offset+length == r.info.Size {
		opts.Length = 0
	}
	info, body, err := r.in.origin.Open(r.ctx, r.path.String(), opts)
	if err != nil {
		return nil, err
	}
	if info.Size != r.info.Size {
		body.Close()
		return nil, origin.ErrChanged
	}
	r.info.ETag = info.ETag
	return body, nil
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
			r.blame()
			return 0, r.damaged
		}
	}
	r.offset += int64(len(p))
	r.since += int64(len(p))
	return len(p), nil
}

// blame notes that the hash is wrong.
func (r *originReader) blame() {
	if r.fromDisk > 0 {
		r.in.foundMixed(r.path, r.watch, r.damaged)
	} else {
		r.in.foundDamaged(r.path, r.watch, r.damaged)
	}
}

func (r *originReader) Seek(offset int64, whence int) (int64, error) {
	return seek(&r.offset, r.info.Size, offset, whence)
}

func (r *originReader) Close() error {
	r.in.cache.damage.end(r.watch)
	return r.held.close()
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
	var (
		unavailable *origin.UnavailableError
		busy        *origin.BusyError
	)
	if errors.As(err, &unavailable) || errors.As(err, &busy) {
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
