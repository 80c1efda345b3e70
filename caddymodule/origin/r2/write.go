package r2

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/stevedores-org/nix-cache/caddymodule/origin"
)

var errEnded = errors.New("already committed or aborted")

// staged gathers bytes until they fill a part and more come. An object of one
// part is put whole by Commit; a larger one becomes a multipart upload, the
// parts of which go up while the next one is gathered.
type staged struct {
	o      *Origin
	ctx    context.Context
	path   string
	opts   origin.CreateOptions
	part   []byte  // gathered so far, at most o.partSize
	size   int64   // of all that was written
	upload *upload // nil until there is a second part
	err    error   // of the first Write that failed
	ended  bool
}

// Create implements [origin.Writer]. It sends nothing yet.
func (o *Origin) Create(ctx context.Context, path string, opts origin.CreateOptions) (origin.Staged, error) {
	if err := ended(ctx, "create", path); err != nil {
		return nil, err
	}
	if limit := int64(o.partSize) * maxParts; opts.Size > limit {
		return nil, fmt.Errorf("create %s: %d bytes are more than %d parts of %d; raise part_size", path, opts.Size, maxParts, o.partSize)
	}
	return &staged{o: o, ctx: ctx, path: path, opts: opts}, nil
}

// Write implements [io.Writer]. It waits where parts come faster than they go
// up. An error may be that of an earlier part.
func (s *staged) Write(p []byte) (int, error) {
	if s.ended {
		return 0, fmt.Errorf("create %s: %w", s.path, errEnded)
	}
	written := 0
	for len(p) > 0 && s.err == nil {
		if s.err = s.room(len(p)); s.err != nil {
			break
		}
		n := min(len(p), cap(s.part)-len(s.part))
		s.part = append(s.part, p[:n]...)
		s.size += int64(n)
		written += n
		p = p[n:]
	}
	return written, s.err
}

// room makes s.part ready to take some of n more bytes.
func (s *staged) room(n int) error {
	if err := ended(s.ctx, "create", s.path); err != nil {
		return err
	}
	if s.opts.Size >= 0 && s.size+int64(n) > s.opts.Size {
		return fmt.Errorf("create %s: more bytes than the %d announced", s.path, s.opts.Size)
	}
	if len(s.part) == s.o.partSize {
		if err := s.send(); err != nil {
			return err
		}
	}
	if len(s.part) == cap(s.part) {
		s.grow()
	}
	return nil
}

// grow keeps small objects from taking a whole part's memory each.
func (s *staged) grow() {
	const smallest = 64 << 10
	size := max(2*cap(s.part), smallest)
	if s.opts.Size > 0 {
		size = int(min(s.opts.Size, int64(s.o.partSize)))
	}
	switch {
	case s.upload != nil:
		s.part = s.upload.buffer()
	case size >= s.o.partSize:
		s.part = append(s.o.buffer(), s.part...)
	default:
		s.part = append(make([]byte, 0, size), s.part...)
	}
}

// send hands the gathered part to the upload, and begins that if need be.
func (s *staged) send() error {
	if s.upload == nil {
		u, err := s.o.beginUpload(s.ctx, s.path, s.opts.ContentType)
		if err != nil {
			return err
		}
		s.upload = u
	}
	part := s.part
	s.part = nil
	return s.upload.send(part)
}

// Commit implements [origin.Staged].
func (s *staged) Commit() error {
	if s.ended {
		return fmt.Errorf("commit %s: %w", s.path, errEnded)
	}
	err := s.commit()
	if err != nil {
		// The error of what is given up tells no more than that of the commit.
		_ = s.Abort()
	}
	s.ended = true
	return err
}

func (s *staged) commit() error {
	if s.err != nil {
		return s.err
	}
	if s.opts.Size >= 0 && s.size != s.opts.Size {
		return fmt.Errorf("commit %s: %d bytes written, %d announced", s.path, s.size, s.opts.Size)
	}
	if s.upload == nil {
		return s.put()
	}
	if err := s.send(); err != nil {
		return err
	}
	return s.upload.complete(s.opts)
}

func (s *staged) put() error {
	in := &s3.PutObjectInput{
		Bucket:      &s.o.bucket,
		Key:         s.o.key(s.path),
		Body:        bytes.NewReader(s.part),
		ContentType: contentType(s.opts.ContentType),
	}
	in.IfNoneMatch, in.IfMatch = conditions(s.opts)
	ctx, c := begin(s.ctx, opPut)
	_, err := s.o.client.PutObject(ctx, in)
	s.o.recycle(s.part)
	s.part = nil
	return s.o.commitProblem(ctx, c, s.path, s.opts, err)
}

func conditions(opts origin.CreateOptions) (ifNoneMatch, ifMatch *string) {
	if opts.IfAbsent {
		ifNoneMatch = aws.String("*")
	}
	if opts.IfMatch != "" {
		ifMatch = aws.String(opts.IfMatch)
	}
	return ifNoneMatch, ifMatch
}

func contentType(s string) *string {
	if s == "" {
		return nil
	}
	return aws.String(s)
}

// commitProblem is problem for the request that makes an object visible.
func (o *Origin) commitProblem(ctx context.Context, c *call, path string, opts origin.CreateOptions, err error) error {
	a := answerOf(err)
	unmet := a != nil && (a.status == http.StatusPreconditionFailed ||
		opts.IfMatch != "" && a.code == "NoSuchKey")
	switch {
	case !unmet:
		return o.problem(ctx, c, "commit", path, err)
	case c.lost.Load():
		// An earlier request may be what the condition has met.
		return unavailable("commit", path, fmt.Errorf("%w, after a request without an answer", a))
	case opts.IfMatch != "":
		return fmt.Errorf("commit %s: %w", path, origin.ErrChanged)
	}
	return &fs.PathError{Op: "commit", Path: path, Err: fs.ErrExist}
}

// Abort implements [origin.Staged].
func (s *staged) Abort() error {
	if s.ended {
		return nil
	}
	s.ended = true
	s.o.recycle(s.part)
	s.part = nil
	if s.upload == nil {
		return nil
	}
	return s.upload.abort()
}
