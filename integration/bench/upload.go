package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"golang.org/x/sync/errgroup"
)

// forget deletes what the cache has of a file.
func forget(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodDelete, url+"?force=true", nil)
	if err != nil {
		return err
	}
	req.SetBasicAuth("", pushToken)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusNotFound {
		return fmt.Errorf("delete %s: %s", url, resp.Status)
	}
	return nil
}

// put sends the file in one request, as Nix does.
func put(ctx context.Context, url string, f file) error {
	body, err := os.Open(f.disk)
	if err != nil {
		return err
	}
	defer body.Close()
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, url, body)
	if err != nil {
		return err
	}
	req.ContentLength = f.size
	if !strings.Contains(url, "X-Amz-Signature") {
		req.SetBasicAuth("", pushToken)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusCreated {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1000))
		return fmt.Errorf("put %s: %s: %s", f.path, resp.Status, text)
	}
	return nil
}

// putWhole is put, straight into the bucket.
func (s *s3Server) putWhole(ctx context.Context, f file) error {
	signed, err := s3.NewPresignClient(s.client).PresignPutObject(ctx, &s3.PutObjectInput{Bucket: aws.String(bucket), Key: f.key()})
	if err != nil {
		return fmt.Errorf("sign the path of %s: %w", f.path, err)
	}
	return put(ctx, signed.URL, f)
}

// putParts is a multipart upload by the SDK, with the parts that nix_cache has.
func (s *s3Server) putParts(ctx context.Context, f file) error {
	body, err := os.Open(f.disk)
	if err != nil {
		return err
	}
	defer body.Close()
	upload, err := s.client.CreateMultipartUpload(ctx, &s3.CreateMultipartUploadInput{Bucket: aws.String(bucket), Key: f.key()})
	if err != nil {
		return err
	}
	parts := make([]types.CompletedPart, (f.size+partSize-1)/partSize)
	senders, sending := errgroup.WithContext(ctx)
	senders.SetLimit(partsOpen)
	for i := range parts {
		senders.Go(func() error {
			from := int64(i) * partSize
			parts[i].PartNumber = aws.Int32(int32(i + 1))
			out, err := s.client.UploadPart(sending, &s3.UploadPartInput{
				Bucket: aws.String(bucket), Key: f.key(), UploadId: upload.UploadId, PartNumber: parts[i].PartNumber,
				Body: io.NewSectionReader(body, from, min(partSize, f.size-from)),
			}, s3.WithAPIOptions(v4.SwapComputePayloadSHA256ForUnsignedPayloadMiddleware)) // as over TLS
			if err == nil {
				parts[i].ETag = out.ETag
			}
			return err
		})
	}
	if err := senders.Wait(); err != nil {
		return err
	}
	_, err = s.client.CompleteMultipartUpload(ctx, &s3.CompleteMultipartUploadInput{
		Bucket: aws.String(bucket), Key: f.key(), UploadId: upload.UploadId,
		MultipartUpload: &types.CompletedMultipartUpload{Parts: parts},
	})
	return err
}

func (s *s3Server) remove(ctx context.Context, f file) error {
	_, err := s.client.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: aws.String(bucket), Key: f.key()})
	return err
}

func (f file) key() *string { return aws.String(strings.TrimPrefix(f.path, "/")) }
