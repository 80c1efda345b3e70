package cache

import (
	"context"
	"io"
	"os"

	"github.com/stevedores-org/nix-cache/caddymodule/nix"
	"github.com/stevedores-org/nix-cache/caddymodule/origin"
)

// stretch is what a client has got of a file before the disk failed: the bytes
// from an offset up to another.
type stretch struct{ from, to int64 }

// goOn returns a reader of the origin for a client that has got a part of a file
// from the disk, when the disk fails. What comes before is hashed by reading it
// again, so that nobody gets the last byte of a file that is wrong by either
// copy. Where it can't be read again, a client that began in the middle goes on
// as one that asks for a range does, and one that began at the start gets no
// more.
func (n *Namespace) goOn(ctx context.Context, p nix.CachePath, source origin.Info, file io.ReaderAt, got stretch) (*originReader, error) {
	r := newOriginReader(ctx, n, p, source, n.cache.damage.watch(n.key(p)))
	r.offset = got.to
	err := r.hashBefore(file)
	switch {
	case err == nil:
	case ctx.Err() == nil && got.from > 0:
		r.hash = nil
	default:
		r.Close()
		n.log.Error("answer ended before its end: the disk failed, and what was sent can't be read again", "path", p.String(), "error", err)
		return nil, &diskError{err}
	}
	return r, nil
}

// hashBefore hashes what comes before the offset.
func (r *originReader) hashBefore(file io.ReaderAt) error {
	buf := make([]byte, min(hashBuffer, r.offset))
	for r.hashed < r.offset {
		if err := r.ctx.Err(); err != nil {
			return err
		}
		n, err := file.ReadAt(buf[:min(int64(len(buf)), r.offset-r.hashed)], r.hashed)
		if err != nil {
			return err
		}
		r.hash.Write(buf[:n])
		r.hashed += int64(n)
		r.fromDisk = r.hashed
	}
	return nil
}

// tierFile is a file of the disk tier that is being served. Where the disk can't
// read it, or somebody has cut it, the entry is dropped, and who reads it goes on
// with the origin.
type tierFile struct {
	ctx  context.Context
	in   *Namespace
	path nix.CachePath
	file *os.File
	size int64
}

// goOn is called with what came of the attempt to read behind the stretch.
func (t *tierFile) goOn(got stretch, cause error) (*originReader, error) {
	if tier := t.in.cache.disk.Load(); tier != nil && tier.Drop(t.file) {
		t.in.log.Error("disk tier entry dropped: it can't be read; its readers go on with the origin", "path", t.path.String(), "offset", got.to, "error", cause)
	}
	return t.in.goOn(t.ctx, t.path, origin.Info{Size: t.size}, t.file, got)
}

// fileReader reads an open file from any offset on.
type fileReader struct {
	file   *os.File
	size   int64
	tier   *tierFile // nil: the file is not from the disk tier
	got    stretch
	bypass *originReader // nil as long as the disk is well
}

func (r *fileReader) Read(p []byte) (int, error) {
	if r.bypass != nil {
		return r.bypass.Read(p)
	}
	if r.got.to >= r.size {
		return 0, io.EOF
	}
	n, err := r.file.ReadAt(p[:min(int64(len(p)), r.size-r.got.to)], r.got.to)
	if n > 0 {
		r.got.to += int64(n)
		return n, nil
	}
	if r.tier == nil {
		return 0, err
	}
	if r.bypass, err = r.tier.goOn(r.got, err); err != nil {
		return 0, err
	}
	return r.bypass.Read(p)
}

func (r *fileReader) Seek(offset int64, whence int) (int64, error) {
	if r.bypass != nil {
		return r.bypass.Seek(offset, whence)
	}
	at, err := seek(&r.got.to, r.size, offset, whence)
	r.got.from = r.got.to
	return at, err
}

func (r *fileReader) close() error {
	if r.bypass == nil {
		return nil
	}
	return r.bypass.Close()
}
