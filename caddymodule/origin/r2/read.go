package r2

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/stevedores-org/nix-cache/caddymodule/origin"
)

// Open implements [origin.Reader] with one GET, and a HEAD after it where the
// range has no byte in it: an answer 416 doesn't describe the object.
func (o *Origin) Open(ctx context.Context, path string, opts origin.OpenOptions) (origin.Info, io.ReadCloser, error) {
	info, rc, err := o.get(ctx, "open", path, opts)
	if err != nil {
		return origin.Info{}, nil, err
	}
	return info, rc, nil
}

// Stat implements [origin.Reader] with a GET of one byte, and a HEAD after it
// where the object is empty. A HEAD alone would cost the same, and its answer
// 404 would not tell a missing object from a missing bucket.
func (o *Origin) Stat(ctx context.Context, path string) (origin.Info, error) {
	info, rc, err := o.get(ctx, "stat", path, origin.OpenOptions{Length: 1})
	if err != nil {
		return origin.Info{}, err
	}
	defer rc.Close()
	// Read to its end, so that the connection can be used again. What the
	// answer's head says holds whether the byte arrives or not.
	_, _ = io.Copy(io.Discard, rc)
	return info, nil
}

func (o *Origin) get(ctx context.Context, op, path string, opts origin.OpenOptions) (origin.Info, io.ReadCloser, error) {
	in := &s3.GetObjectInput{Bucket: &o.bucket, Key: o.key(path)}
	if opts.IfMatch != "" {
		in.IfMatch = aws.String(opts.IfMatch)
	}
	in.Range = rangeHeader(opts)
	ctx, c := begin(ctx, opGet)
	out, err := o.client.GetObject(ctx, in)
	if a := answerOf(err); a != nil && a.status == http.StatusRequestedRangeNotSatisfiable {
		return o.head(ctx, op, path, opts)
	}
	if err != nil {
		return origin.Info{}, nil, o.problem(ctx, c, op, path, err)
	}
	part, err := extentOf(out, opts)
	if err != nil {
		out.Body.Close()
		return origin.Info{}, nil, unavailable(op, path, err)
	}
	info := origin.Info{Size: part.total, ETag: aws.ToString(out.ETag), ModTime: aws.ToTime(out.LastModified)}
	return info, &body{ctx: ctx, op: op, path: path, rc: out.Body, left: part.length}, nil
}

// head describes an object of which a range has no byte.
func (o *Origin) head(ctx context.Context, op, path string, opts origin.OpenOptions) (origin.Info, io.ReadCloser, error) {
	in := &s3.HeadObjectInput{Bucket: &o.bucket, Key: o.key(path)}
	if opts.IfMatch != "" {
		in.IfMatch = aws.String(opts.IfMatch)
	}
	ctx, c := begin(ctx, opHead)
	out, err := o.client.HeadObject(ctx, in)
	if err != nil {
		return origin.Info{}, nil, o.problem(ctx, c, op, path, err)
	}
	size := aws.ToInt64(out.ContentLength)
	if size > opts.Offset {
		return origin.Info{}, nil, unavailable(op, path, errors.New("object has grown while it was opened"))
	}
	info := origin.Info{Size: size, ETag: aws.ToString(out.ETag), ModTime: aws.ToTime(out.LastModified)}
	return info, http.NoBody, nil
}

// rangeHeader returns nil for the whole object.
func rangeHeader(opts origin.OpenOptions) *string {
	switch {
	case opts.Length > 0 && opts.Length <= math.MaxInt64-opts.Offset:
		return aws.String(fmt.Sprintf("bytes=%d-%d", opts.Offset, opts.Offset+opts.Length-1))
	case opts.Offset > 0:
		return aws.String(fmt.Sprintf("bytes=%d-", opts.Offset))
	}
	return nil
}

// extent is how much of an object an answer holds.
type extent struct{ length, total int64 }

// extentOf checks that an answer is to the range that was asked for.
func extentOf(out *s3.GetObjectOutput, opts origin.OpenOptions) (extent, error) {
	if out.ContentRange == nil {
		return wholeExtent(out, opts)
	}
	var first, last, total int64
	if _, err := fmt.Sscanf(*out.ContentRange, "bytes %d-%d/%d", &first, &last, &total); err != nil {
		return extent{}, fmt.Errorf("answer with Content-Range %q", *out.ContentRange)
	}
	want := total - opts.Offset
	if opts.Length > 0 {
		want = min(want, opts.Length)
	}
	length := last - first + 1
	if first != opts.Offset || length != want || out.ContentLength != nil && *out.ContentLength != length {
		return extent{}, fmt.Errorf("answer with Content-Range %q to a request for %d bytes from %d on", *out.ContentRange, opts.Length, opts.Offset)
	}
	return extent{length, total}, nil
}

// wholeExtent is for an answer with all of the object, which may be one to a
// range that begins at 0.
func wholeExtent(out *s3.GetObjectOutput, opts origin.OpenOptions) (extent, error) {
	if opts.Offset > 0 {
		return extent{}, errors.New("answer without the range that was asked for")
	}
	if out.ContentLength == nil {
		return extent{}, errors.New("answer without Content-Length")
	}
	length := *out.ContentLength
	if opts.Length > 0 {
		length = min(length, opts.Length)
	}
	return extent{length, *out.ContentLength}, nil
}

// body reads exactly left bytes, or says why not.
type body struct {
	ctx      context.Context
	op, path string
	rc       io.ReadCloser
	left     int64
}

func (b *body) Read(p []byte) (int, error) {
	if err := ended(b.ctx, b.op, b.path); err != nil {
		return 0, err
	}
	if b.left == 0 {
		return 0, b.finish()
	}
	n, err := b.rc.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	switch {
	case err == nil || err == io.EOF && b.left == 0:
		return n, nil
	case err == io.EOF:
		err = io.ErrUnexpectedEOF
	}
	if ended := ended(b.ctx, b.op, b.path); ended != nil {
		return n, ended
	}
	return n, unavailable(b.op, b.path, err)
}

// finish sees the end of the answer, after which its connection can be used
// again. More bytes than wanted are left to Close.
func (b *body) finish() error {
	_, _ = b.rc.Read(make([]byte, 1))
	return io.EOF
}

func (b *body) Close() error { return b.rc.Close() }
