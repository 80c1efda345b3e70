package r2

import (
	"context"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"golang.org/x/sync/errgroup"

	"github.com/stevedores-org/nix-cache/caddymodule/origin"
	"github.com/stevedores-org/nix-cache/caddymodule/origin/limit"
)

const (
	// partsUnderWay, and the one that is being gathered, are what an upload
	// has in the spool.
	partsUnderWay = 2

	abortTimeout = 30 * time.Second
)

// upload is a multipart upload. Its parts are equal but for the last, as
// https://developers.cloudflare.com/r2/objects/multipart-objects/ asks.
type upload struct {
	o       *Origin
	ctx     context.Context // the caller's
	path    string
	mark    string
	opts    origin.CreateOptions
	id      *string
	parts   []*types.CompletedPart // handed to senders, which fill them in
	senders *errgroup.Group
	sending context.Context // ends with the first sender that fails
	cancel  context.CancelFunc
}

func (o *Origin) beginUpload(ctx context.Context, path, mark string, opts origin.CreateOptions) (*upload, error) {
	callCtx, c, err := o.beginIn(ctx, limit.Small, opCreate, "create", path)
	if err != nil {
		return nil, err
	}
	defer c.place.GiveBack()
	out, err := o.client.CreateMultipartUpload(callCtx, &s3.CreateMultipartUploadInput{
		Bucket:      &o.bucket,
		Key:         o.key(path),
		ContentType: contentType(opts.ContentType),
		Metadata:    marked(mark),
	})
	if err != nil {
		return nil, o.problem(ctx, c, "create", path, err)
	}
	u := &upload{o: o, ctx: ctx, path: path, mark: mark, opts: opts, id: out.UploadId}
	sending, cancel := context.WithCancel(ctx)
	u.cancel = cancel
	u.senders, u.sending = errgroup.WithContext(sending)
	u.senders.SetLimit(partsUnderWay)
	return u, nil
}

// send takes over data as the next part. It waits for an earlier one where too
// many are under way.
func (u *upload) send(data *part) error {
	if len(u.parts) == maxParts {
		data.release()
		return fmt.Errorf("create %s: more than %d parts of %d bytes; raise part_size", u.path, maxParts, u.o.partSize)
	}
	if u.sending.Err() != nil {
		data.release()
		return u.wait()
	}
	done := &types.CompletedPart{PartNumber: aws.Int32(int32(len(u.parts) + 1))}
	u.parts = append(u.parts, done)
	u.senders.Go(func() error {
		defer data.release()
		return u.sendPart(done, data)
	})
	return nil
}

func (u *upload) sendPart(done *types.CompletedPart, data *part) error {
	ctx, c, err := u.o.beginIn(u.sending, limit.Upload, opUploadPart, "create", u.path)
	if err != nil {
		return err
	}
	defer c.place.GiveBack()
	out, err := u.o.client.UploadPart(ctx, &s3.UploadPartInput{
		Bucket:     &u.o.bucket,
		Key:        u.o.key(u.path),
		UploadId:   u.id,
		PartNumber: done.PartNumber,
		Body:       data.body(),
	}, patiently, unsigned)
	if err != nil {
		return u.o.problem(ctx, c, "create", u.path, err)
	}
	done.ETag = out.ETag
	return nil
}

// unsigned leaves a part's bytes out of its signature, as the SDK does over TLS
// by itself: to hash them costs as much as all else here. What they should be,
// the object's readers know.
func unsigned(o *s3.Options) {
	o.APIOptions = append(o.APIOptions, v4.SwapComputePayloadSHA256ForUnsignedPayloadMiddleware)
}

// wait returns once no sender is left, with the error of the first that failed.
func (u *upload) wait() error {
	err := u.senders.Wait()
	if ended := ended(u.ctx, "create", u.path); ended != nil {
		return ended
	}
	return err
}

func (u *upload) complete() error {
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
	in.IfNoneMatch, in.IfMatch = conditions(u.opts)
	ctx, c, err := u.o.beginIn(u.ctx, limit.Small, opComplete, "commit", u.path)
	if err != nil {
		return err
	}
	defer c.place.GiveBack()
	_, err = u.o.client.CompleteMultipartUpload(ctx, in, patiently)
	return u.o.commitProblem(ctx, c, u.path, u.mark, u.opts, err)
}

// abort drops the parts, which cost storage until R2 does so itself after a
// week. It has a time of its own: the caller's may be over.
func (u *upload) abort() error {
	u.cancel()
	_ = u.wait()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(u.ctx), abortTimeout)
	defer cancel()
	err := u.o.abortUpload(ctx, u.path, u.id)
	if err != nil {
		u.o.log.Warn("multipart upload not aborted", "path", u.path, "upload", aws.ToString(u.id), "error", err)
	}
	return err
}

// abortUpload drops the parts of an upload, if it is still under way.
func (o *Origin) abortUpload(ctx context.Context, path string, id *string) error {
	ctx, c, err := o.beginIn(ctx, limit.Background, opAbort, "abort", path)
	if err != nil {
		return err
	}
	defer c.place.GiveBack()
	_, err = o.client.AbortMultipartUpload(ctx, &s3.AbortMultipartUploadInput{
		Bucket:   &o.bucket,
		Key:      o.key(path),
		UploadId: id,
	})
	if a := answerOf(err); a != nil && a.code == "NoSuchUpload" {
		return nil
	}
	return o.problem(ctx, c, "abort", path, err)
}
