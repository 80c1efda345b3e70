package r2

import (
	"context"
	"iter"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/stevedores-org/nix-cache/caddymodule/origin"
	"github.com/stevedores-org/nix-cache/caddymodule/origin/limit"
)

// List implements [origin.Lister] with one request per 1,000 objects.
func (o *Origin) List(ctx context.Context, prefix string) iter.Seq2[origin.Entry, error] {
	return func(yield func(origin.Entry, error) bool) {
		pages := s3.NewListObjectsV2Paginator(o.client, &s3.ListObjectsV2Input{Bucket: &o.bucket, Prefix: o.key(prefix)})
		for pages.HasMorePages() {
			page, err := o.nextPage(ctx, pages, prefix)
			if err != nil {
				yield(origin.Entry{}, err)
				return
			}
			for _, object := range page.Contents {
				if !yield(o.entry(object), nil) {
					return
				}
			}
		}
	}
}

func (o *Origin) nextPage(ctx context.Context, pages *s3.ListObjectsV2Paginator, prefix string) (*s3.ListObjectsV2Output, error) {
	ctx, c, err := o.beginIn(ctx, limit.Background, opList, "list", prefix)
	if err != nil {
		return nil, err
	}
	defer c.place.GiveBack()
	page, err := pages.NextPage(ctx)
	return page, o.problem(ctx, c, "list", prefix, err)
}

func (o *Origin) entry(object types.Object) origin.Entry {
	return origin.Entry{
		Path: strings.TrimPrefix(aws.ToString(object.Key), o.prefix),
		Info: origin.Info{
			Size:    aws.ToInt64(object.Size),
			ETag:    aws.ToString(object.ETag),
			ModTime: aws.ToTime(object.LastModified),
		},
	}
}
