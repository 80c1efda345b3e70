package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

const (
	bucket    = "bench"
	accessKey = "bench"
	secretKey = "bench-secret"
)

// s3Server is versitygw (https://github.com/versity/versitygw) with one bucket,
// from which everybody may read, so that caches which can't sign can too.
type s3Server struct {
	*process
	address string
	root    string // of its files
	client  *s3.Client
}

func startS3(ctx context.Context, dir string) (*s3Server, error) {
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	root := filepath.Join(dir, "s3")
	if err := os.Mkdir(root, 0o755); err != nil {
		return nil, err
	}
	p, err := launch(dir, "versitygw", nil, os.Getenv("VERSITYGW"),
		"--access", accessKey, "--secret", secretKey, "--region", "auto",
		"--port", address, "--keep-alive", "--quiet", "posix", root)
	if err != nil {
		return nil, err
	}
	s := &s3Server{process: p, address: address, root: root}
	s.client = s3.New(s3.Options{
		BaseEndpoint: aws.String("http://" + address),
		Region:       "auto",
		UsePathStyle: true,
		Credentials:  credentials.NewStaticCredentialsProvider(accessKey, secretKey, ""),
	})
	if err := p.await(address); err != nil {
		return nil, err
	}
	return s, s.createBucket(ctx)
}

const publicRead = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":"*",` +
	`"Action":"s3:GetObject","Resource":"arn:aws:s3:::` + bucket + `/*"}]}`

func (s *s3Server) createBucket(ctx context.Context) error {
	if _, err := s.client.CreateBucket(ctx, &s3.CreateBucketInput{Bucket: aws.String(bucket)}); err != nil {
		return fmt.Errorf("create the bucket: %w", err)
	}
	_, err := s.client.PutBucketPolicy(ctx, &s3.PutBucketPolicyInput{Bucket: aws.String(bucket), Policy: aws.String(publicRead)})
	if err != nil {
		return fmt.Errorf("make the bucket public: %w", err)
	}
	return nil
}

// presign returns the path by which a proxy at an address gives out a file of
// the bucket to one who has the credentials.
func (s *s3Server) presign(ctx context.Context, address, path string) (string, error) {
	client := s3.NewPresignClient(s.client, s3.WithPresignClientFromClientOptions(func(o *s3.Options) {
		o.BaseEndpoint = aws.String("http://" + address)
	}))
	signed, err := client.PresignGetObject(ctx, &s3.GetObjectInput{
		Bucket: aws.String(bucket),
		Key:    aws.String(strings.TrimPrefix(path, "/")),
	})
	if err != nil {
		return "", fmt.Errorf("sign the path of %s: %w", path, err)
	}
	return strings.TrimPrefix(signed.URL, "http://"+address), nil
}

func (s *s3Server) upload(ctx context.Context, f file) error {
	body, err := os.Open(f.disk)
	if err != nil {
		return err
	}
	defer body.Close()
	_, err = s.client.PutObject(ctx, &s3.PutObjectInput{
		Bucket: aws.String(bucket),
		Key:    aws.String(strings.TrimPrefix(f.path, "/")),
		Body:   body,
	})
	if err != nil {
		return fmt.Errorf("upload %s: %w", f.path, err)
	}
	return nil
}
