// Package r2 is an origin in a Cloudflare R2 bucket, by its S3 API.
//
// It holds to what R2 documents where that is less than S3: no checksums of the
// newer kind, no 100-continue, no bodies of unknown length, equal parts, one
// write per second to an object. Other S3 servers that know conditional writes
// serve as well.
//
// Failed requests are repeated a few times, up to the first byte of an answer.
// A body that breaks off is the caller's to read on, with an Offset.
package r2

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/stevedores-org/nix-cache/caddymodule/origin"
	"github.com/stevedores-org/nix-cache/caddymodule/origin/limit"
)

// Origin is a bucket, or a folder of it, as an [origin.Origin].
type Origin struct {
	name     string
	endpoint string
	bucket   string
	prefix   string
	partSize int64
	client   *s3.Client
	budget   *limit.Budget
	log      *slog.Logger
	spool    *spool
}

var _ origin.Origin = (*Origin)(nil)

// New returns the origin that cfg describes. It opens no connection and no file,
// and reads none of the AWS variables of the environment.
func New(cfg Config) (*Origin, error) {
	dialer := &net.Dialer{Timeout: 10 * time.Second}
	return newOrigin(cfg, newTransport(dialer.DialContext))
}

func newOrigin(cfg Config, transport *http.Transport) (*Origin, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	transport.MaxIdleConnsPerHost = cfg.Budget.Places()
	_, host, _ := strings.Cut(cfg.Endpoint, "://")
	return &Origin{
		name:     "r2:" + host + "/" + cfg.Bucket + "/" + cfg.Prefix,
		endpoint: cfg.Endpoint,
		bucket:   cfg.Bucket,
		prefix:   cfg.Prefix,
		partSize: cfg.PartSize,
		client:   s3.New(options(cfg, newRequester(cfg, transport))),
		budget:   cfg.Budget,
		log:      cfg.Logger,
		spool:    newSpool(cfg),
	}, nil
}

// options are those of https://developers.cloudflare.com/r2/examples/aws/aws-sdk-go/
// and of what R2 doesn't have: https://developers.cloudflare.com/r2/api/s3/api/.
func options(cfg Config, client s3.HTTPClient) s3.Options {
	return s3.Options{
		BaseEndpoint:                 aws.String(cfg.Endpoint),
		UsePathStyle:                 true,
		Region:                       cfg.Region,
		Credentials:                  credentials.NewStaticCredentialsProvider(cfg.AccessKeyID, cfg.SecretAccessKey, cfg.SessionToken),
		HTTPClient:                   client,
		Retryer:                      newRetryer(),
		RequestChecksumCalculation:   aws.RequestChecksumCalculationWhenRequired,
		ResponseChecksumValidation:   aws.ResponseChecksumValidationWhenRequired,
		ContinueHeaderThresholdBytes: -1,
		DisableS3ExpressSessionAuth:  aws.Bool(true),

		DisableLogOutputChecksumValidationSkipped: true,
	}
}

// String returns "r2:", the endpoint's host, the bucket and the prefix.
func (o *Origin) String() string { return o.name }

func (o *Origin) key(path string) *string { return aws.String(o.prefix + path) }

// Delete implements [origin.Writer]. R2 doesn't tell whether there was an
// object.
func (o *Origin) Delete(ctx context.Context, path string) error {
	ctx, c := begin(ctx, opDelete)
	_, err := o.client.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &o.bucket, Key: o.key(path)})
	return o.problem(ctx, c, "delete", path, err)
}
