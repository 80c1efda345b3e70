package r2

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/stevedores-org/nix-cache/caddymodule/origin/limit"
)

// maxOrphanPages bounds the requests to list uploads, of 1,000 each.
const maxOrphanPages = 20

// Orphans says which multipart uploads nobody will complete.
type Orphans struct {
	// OlderThan is the least time since they were begun, by the server's
	// clock. No upload that may be under way must be older.
	OlderThan time.Duration

	// Ours tells whether an object's path is one that we write: others may
	// share the bucket. Uploads outside the origin's prefix are never ours.
	Ours func(path string) bool
}

// AbortOrphans aborts the multipart uploads that a process left when it ended
// in their middle, and returns how many. Their parts cost storage until R2
// drops them itself, after a week.
func (o *Origin) AbortOrphans(ctx context.Context, orphans Orphans) (aborted int, err error) {
	pages := s3.NewListMultipartUploadsPaginator(o.client, &s3.ListMultipartUploadsInput{Bucket: &o.bucket, Prefix: o.key("")})
	for range maxOrphanPages {
		if !pages.HasMorePages() {
			break
		}
		page, err := o.nextUploads(ctx, pages)
		if err != nil {
			return aborted, err
		}
		now, ok := middleware.GetServerTime(page.ResultMetadata)
		if !ok {
			return aborted, unavailable("list multipart uploads of", o.name, errors.New("answer without a Date"))
		}
		for _, u := range page.Uploads {
			if !o.isOrphan(u, now, orphans) {
				continue
			}
			if err := o.abortUpload(ctx, o.pathOf(u), u.UploadId); err != nil {
				return aborted, err
			}
			aborted++
		}
	}
	return aborted, nil
}

func (o *Origin) nextUploads(ctx context.Context, pages *s3.ListMultipartUploadsPaginator) (*s3.ListMultipartUploadsOutput, error) {
	const op = "list multipart uploads of"
	ctx, c, err := o.beginIn(ctx, limit.Background, opListMultipart, op, o.name)
	if err != nil {
		return nil, err
	}
	defer c.place.GiveBack()
	page, err := pages.NextPage(ctx)
	return page, o.problem(ctx, c, op, o.name, err)
}

func (o *Origin) pathOf(u types.MultipartUpload) string {
	return strings.TrimPrefix(aws.ToString(u.Key), o.prefix)
}

func (o *Origin) isOrphan(u types.MultipartUpload, now time.Time, orphans Orphans) bool {
	return strings.HasPrefix(aws.ToString(u.Key), o.prefix) &&
		u.Initiated != nil && now.Sub(*u.Initiated) >= orphans.OlderThan &&
		orphans.Ours(o.pathOf(u))
}
