package r2

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"golang.org/x/sync/errgroup"

	"github.com/stevedores-org/nix-cache/caddymodule/origin"
)

const (
	// partsUnderWay, and the one that is being gathered, bound the memory of
	// an upload.
	partsUnderWay = 2

	abortTimeout = 30 * time.Second
)

// upload is a multipart upload. Its parts are equal but for the last, as
// https://developers.cloudflare.com/r2/objects/multipart-objects/ asks.
type upload struct {
	o       *Origin
	ctx     context.Context // the caller's
	path    string
	id      *string
	parts   []*types.CompletedPart // handed to senders, which fill them in
	free    chan []byte            // buffers of parts that are up
	senders *errgroup.Group
	sending context.Context // ends with the first sender that fails
	cancel  context.CancelFunc
}

func (o *Origin) beginUpload(ctx context.Context, path, ctype string) (*upload, error) {
	callCtx, c := begin(ctx, opCreate)
	out, err := o.client.CreateMultipartUpload(callCtx, &s3.CreateMultipartUploadInput{
		Bucket:      &o.bucket,
		Key:         o.key(path),
		ContentType: contentType(ctype),
	})
	if err != nil {
		return nil, o.problem(ctx, c, "create", path, err)
	}
	u := &upload{o: o, ctx: ctx, path: path, id: out.UploadId, free: make(chan []byte, partsUnderWay+1)}
	sending, cancel := context.WithCancel(ctx)
	u.cancel = cancel
	u.senders, u.sending = errgroup.WithContext(sending)
	u.senders.SetLimit(partsUnderWay)
	return u, nil
}

// send takes over data as the next part. It waits for an earlier one where too
// many are under way.
func (u *upload) send(data []byte) error {
	if len(u.parts) == maxParts {
		return fmt.Errorf("create %s: more than %d parts of %d bytes; raise part_size", u.path, maxParts, u.o.partSize)
	}
	if u.sending.Err() != nil {
		return u.wait()
	}
	part := &types.CompletedPart{PartNumber: aws.Int32(int32(len(u.parts) + 1))}
	u.parts = append(u.parts, part)
	u.senders.Go(func() error {
		defer func() { u.free <- data[:0] }()
		return u.sendPart(part, data)
	})
	return nil
}

func (u *upload) sendPart(part *types.CompletedPart, data []byte) error {
	ctx, c := begin(u.sending, opUploadPart)
	out, err := u.o.client.UploadPart(ctx, &s3.UploadPartInput{
		Bucket:     &u.o.bucket,
		Key:        u.o.key(u.path),
		UploadId:   u.id,
		PartNumber: part.PartNumber,
		Body:       bytes.NewReader(data),
	})
	if err != nil {
		return u.o.problem(ctx, c, "create", u.path, err)
	}
	part.ETag = out.ETag
	return nil
}

// buffer returns an empty one for the next part. There are never more than free
// has room for: send has waited for one before the next is asked for.
func (u *upload) buffer() []byte {
	select {
	case b := <-u.free:
		return b
	default:
		return u.o.buffer()
	}
}

// wait returns once no sender is left, with the error of the first that failed.
func (u *upload) wait() error {
	err := u.senders.Wait()
	for len(u.free) > 0 {
		u.o.recycle(<-u.free)
	}
	if ended := ended(u.ctx, "create", u.path); ended != nil {
		return ended
	}
	return err
}

func (u *upload) complete(opts origin.CreateOptions) error {
	if err := u.wait(); err != nil {
		return err
	}
	u.cancel()
	parts := make([]types.CompletedPart, len(u.parts))
	for i, part := range u.parts {
		parts[i] = *part
	}
	in := &s3.CompleteMultipartUploadInput{
		Bucket:          &u.o.bucket,
		Key:             u.o.key(u.path),
		UploadId:        u.id,
		MultipartUpload: &types.CompletedMultipartUpload{Parts: parts},
	}
	in.IfNoneMatch, in.IfMatch = conditions(opts)
	ctx, c := begin(u.ctx, opComplete)
	_, err := u.o.client.CompleteMultipartUpload(ctx, in)
	return u.o.commitProblem(ctx, c, u.path, opts, err)
}

// abort drops the parts, which cost storage until R2 does so itself after a
// week. It has a time of its own: the caller's may be over.
func (u *upload) abort() error {
	u.cancel()
	_ = u.wait()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(u.ctx), abortTimeout)
	defer cancel()
	ctx, c := begin(ctx, opAbort)
	_, err := u.o.client.AbortMultipartUpload(ctx, &s3.AbortMultipartUploadInput{
		Bucket:   &u.o.bucket,
		Key:      u.o.key(u.path),
		UploadId: u.id,
	})
	if a := answerOf(err); a != nil && a.code == "NoSuchUpload" {
		return nil
	}
	if err != nil {
		u.o.log.Warn("multipart upload not aborted", "path", u.path, "upload", aws.ToString(u.id), "error", err)
	}
	return u.o.problem(ctx, c, "abort", u.path, err)
}

// buffer returns an empty slice with room for one part.
func (o *Origin) buffer() []byte {
	if b, ok := o.buffers.Get().(*[]byte); ok {
		return *b
	}
	return make([]byte, 0, o.partSize)
}

// recycle takes back what buffer gave; other slices it leaves alone.
func (o *Origin) recycle(b []byte) {
	if cap(b) == o.partSize {
		b = b[:0]
		o.buffers.Put(&b)
	}
}
