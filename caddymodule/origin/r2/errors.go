package r2

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/aws/smithy-go"

	"github.com/stevedores-org/nix-cache/caddymodule/origin"
)

// answer is an error that the S3 API gave, of the codes at
// https://developers.cloudflare.com/r2/api/error-codes/.
type answer struct {
	status  int
	code    string // "" for an answer without a body
	message string
}

func (a *answer) Error() string {
	text := fmt.Sprintf("answer %d", a.status)
	if a.code != "" {
		text += " " + a.code
	}
	if a.message != "" {
		text += ": " + a.message
	}
	return text
}

// answerOf returns the API's error in err, or nil where there was no answer, or
// none that makes sense.
func answerOf(err error) *answer {
	response, ok := errors.AsType[*smithyhttp.ResponseError](err)
	if !ok || response.HTTPStatusCode() < 300 {
		return nil
	}
	a := &answer{status: response.HTTPStatusCode()}
	if api, ok := errors.AsType[smithy.APIError](err); ok {
		a.code, a.message = api.ErrorCode(), api.ErrorMessage()
	}
	return a
}

// problem is the contract's error for one of a call, nil for nil. Conditions
// of writes are told apart by their caller.
func (o *Origin) problem(ctx context.Context, c *call, op, path string, err error) error {
	if err == nil {
		return nil
	}
	if ended := ended(ctx, op, path); ended != nil {
		return ended
	}
	a := answerOf(err)
	if a == nil {
		return unavailable(op, path, err)
	}
	switch {
	case a.status == http.StatusNotImplemented:
		return fmt.Errorf("%s %s: %w", op, path, a)
	case a.status >= 500, a.status == http.StatusTooManyRequests, a.status == http.StatusRequestTimeout:
		return unavailable(op, path, a)
	case a.status == http.StatusNotFound:
		return o.notFound(c, op, path, a)
	case a.status == http.StatusPreconditionFailed:
		return fmt.Errorf("%s %s: %w", op, path, origin.ErrChanged)
	case a.status == http.StatusUnauthorized, a.status == http.StatusForbidden:
		return fmt.Errorf("%s %s: bucket %s refused the credentials (%d %s); check access_key_id, secret_access_key and what their R2 API token may do",
			op, path, o.bucket, a.status, a.code)
	}
	return fmt.Errorf("%s %s: %w", op, path, a)
}

// notFound tells a missing object from anything else that is missing. The
// answer to a HEAD has no code, and is asked for only once a GET has found the
// bucket and an object.
func (o *Origin) notFound(c *call, op, path string, a *answer) error {
	switch {
	case a.code == "NoSuchKey", c.operation == opHead:
		return origin.NotExist(op, path)
	case a.code == "NoSuchBucket":
		return fmt.Errorf("%s %s: there is no bucket %s at %s; create it, or correct bucket, account_id or jurisdiction",
			op, path, o.bucket, o.endpoint)
	case a.code == "NoSuchUpload":
		// Aborted by somebody, or completed by a request whose answer was lost.
		return unavailable(op, path, a)
	}
	return fmt.Errorf("%s %s: %w", op, path, a)
}

func unavailable(op, path string, err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		err = e.Err // without the URL, which says no more than the path
	}
	return &origin.UnavailableError{Op: op, Path: path, Timeout: isTimeout(err), Err: err}
}

// ended is the error of an operation whose context has ended, else nil.
func ended(ctx context.Context, op, path string) error {
	if err := ctx.Err(); err != nil {
		return unavailable(op, path, err)
	}
	return nil
}
