package r2

import (
	"errors"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/smithy-go"
)

const (
	maxAttempts = 4
	maxBackoff  = time.Second // clients wait meanwhile, and repeat requests themselves

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
		o.Backoff = backoff{retry.NewExponentialJitterBackoff(maxBackoff)}
		o.Retryables = append(o.Retryables, throttled, status)
		o.Throttles = append(o.Throttles, retry.ThrottleErrorCode{Codes: throttled.Codes})
	})
}

// backoff waits out the limit of one write per second, and what else as usual.
type backoff struct{ usual retry.BackoffDelayer }

func (b backoff) BackoffDelay(attempt int, err error) (time.Duration, error) {
	var api smithy.APIError
	if errors.As(err, &api) && api.ErrorCode() == codeTooManyRequests {
		return writeInterval + rand.N(time.Duration(attempt+1)*writeInterval/2), nil
	}
	return b.usual.BackoffDelay(attempt, err)
}
