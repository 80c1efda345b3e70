package r2

import (
	"errors"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/ratelimit"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go"
)

const (
	maxAttempts = 4
	maxBackoff  = time.Second // clients wait meanwhile, and repeat requests themselves

	// uploadAttempts are those of a part and of what completes its upload: to
	// give one up is to lose what a client has sent, maybe over hours. A stalled
	// one takes inactivity each time; Nix gives up a transfer that has made no
	// progress for 5 minutes.
	uploadAttempts   = 6
	maxUploadBackoff = 5 * time.Second

	// writeInterval is that of R2's limit for writes to one object, see
	// https://developers.cloudflare.com/r2/platform/limits/.
	writeInterval = time.Second

	codeTooManyRequests = "TooManyRequests"
)

// newRetryer is the SDK's standard one, the only layer that repeats requests,
// with R2's code for too many of them.
func newRetryer() aws.Retryer {
	return retry.NewStandard(func(o *retry.StandardOptions) {
		throttled := retry.RetryableErrorCode{Codes: map[string]struct{}{codeTooManyRequests: {}}}
		status := retry.RetryableHTTPStatusCode{Codes: map[int]struct{}{http.StatusTooManyRequests: {}}}
		o.MaxAttempts = maxAttempts
		// The SDK's budget of retries is empty after an outage, when they are
		// needed most. How much a dead origin is asked is the guard's matter.
		o.RateLimiter = ratelimit.None
		o.Backoff = backoff{
			usual:   retry.NewExponentialJitterBackoff(maxBackoff),
			patient: retry.NewExponentialJitterBackoff(maxUploadBackoff),
		}
		o.Retryables = append(o.Retryables, throttled, status)
		o.Throttles = append(o.Throttles, retry.ThrottleErrorCode{Codes: throttled.Codes})
	})
}

// patiently makes a request one of uploadAttempts.
func patiently(o *s3.Options) { o.RetryMaxAttempts = uploadAttempts }

// backoff waits out the limit of one write per second, and what else as usual,
// until only an upload's requests are left.
type backoff struct{ usual, patient retry.BackoffDelayer }

func (b backoff) BackoffDelay(attempt int, err error) (time.Duration, error) {
	var api smithy.APIError
	switch {
	case errors.As(err, &api) && api.ErrorCode() == codeTooManyRequests:
		return writeInterval + rand.N(time.Duration(attempt+1)*writeInterval/2), nil
	case attempt >= maxAttempts:
		return b.patient.BackoffDelay(attempt, err)
	}
	return b.usual.BackoffDelay(attempt, err)
}
