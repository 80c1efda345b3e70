package r2

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/stevedores-org/nix-cache/caddymodule/origin"
	"github.com/stevedores-org/nix-cache/caddymodule/origin/limit"
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
	mark   string  // tells this write's object from others, see settle
	part   *part   // gathered so far; nil between parts
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
	if limit := o.partSize * maxParts; opts.Size > limit {
		return nil, fmt.Errorf("create %s: %d bytes are more than %d parts of %d; raise part_size", path, opts.Size, maxParts, o.partSize)
	}
	return &staged{o: o, ctx: ctx, path: path, opts: opts, mark: rand.Text()}, nil
}

// Write implements [io.Writer]. It waits where parts come faster than they go
// up, or the spool has no room. An error may be that of an earlier part.
func (s *staged) Write(p []byte) (int, error) {
	if s.ended {
		return 0, fmt.Errorf("create %s: %w", s.path, errEnded)
	}
	written := 0
	for len(p) > 0 && s.err == nil {
		if s.err = s.room(len(p)); s.err != nil {
			break
		}
		var n int
		n, s.err = s.part.Write(p[:min(int64(len(p)), s.part.limit-s.part.size)])
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
	if s.part != nil && s.part.size == s.part.limit {
		if err := s.send(); err != nil {
			return err
		}
	}
	if s.part == nil {
		s.begin()
	}
	return nil
}

// begin begins the next part, which needs no more room than what is to come.
func (s *staged) begin() {
	limit := s.o.partSize
	if s.opts.Size >= 0 {
		limit = min(limit, s.opts.Size-s.size)
	}
	s.part = &part{ctx: s.ctx, spool: s.o.spool, limit: limit}
}

// send hands the gathered part to the upload, and begins that if need be.
func (s *staged) send() error {
	if s.upload == nil {
		u, err := s.o.beginUpload(s.ctx, s.path, s.mark, s.opts)
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
	if s.part == nil {
		s.begin()
	}
	if s.upload == nil {
		return s.put()
	}
	if err := s.send(); err != nil {
		return err
	}
	return s.upload.complete()
}

func (s *staged) put() error {
	in := &s3.PutObjectInput{
		Bucket:      &s.o.bucket,
		Key:         s.o.key(s.path),
		Body:        s.part.body(),
		ContentType: contentType(s.opts.ContentType),
		Metadata:    marked(s.mark),
	}
	in.IfNoneMatch, in.IfMatch = conditions(s.opts)
	defer s.part.release()
	ctx, c, err := s.o.beginIn(s.ctx, limit.Upload, opPut, "commit", s.path)
	if err != nil {
		return err
	}
	defer c.place.GiveBack()
	_, err = s.o.client.PutObject(ctx, in)
	return s.o.commitProblem(ctx, c, s.path, s.mark, s.opts, err)
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

// Abort implements [origin.Staged].
func (s *staged) Abort() error {
	if s.ended {
		return nil
	}
	s.ended = true
	if s.part != nil {
		s.part.release()
	}
	if s.upload == nil {
		return nil
	}
	return s.upload.abort()
}
