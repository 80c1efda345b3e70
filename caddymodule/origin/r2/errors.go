package r2

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

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
	skew    time.Duration // by how much our clock is ahead of the answer's
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

// noCode is the SDK's word for an answer without a code; for that to a HEAD it
// takes the status's.
const noCode = "UnknownError"

// answerOf returns the API's error in err, or nil where there was no answer, or
// none that makes sense.
func answerOf(err error) *answer {
	response, ok := errors.AsType[*smithyhttp.ResponseError](err)
	if !ok || response.HTTPStatusCode() < 300 {
		return nil
	}
	a := &answer{status: response.HTTPStatusCode()}
	if api, ok := errors.AsType[smithy.APIError](err); ok && api.ErrorCode() != noCode && api.ErrorCode() != http.StatusText(a.status) {
		a.code, a.message = api.ErrorCode(), api.ErrorMessage()
	}
	if sent, err := http.ParseTime(response.Response.Header.Get("Date")); err == nil {
		a.skew = time.Since(sent)
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
		return fmt.Errorf("%s: %w", origin.Attempt(op, path), a)
	case a.status >= 500, a.status == http.StatusTooManyRequests, a.status == http.StatusRequestTimeout:
		return unavailable(op, path, a)
	case a.status == http.StatusNotFound:
		return o.notFound(c, op, path, a)
	case a.status == http.StatusPreconditionFailed:
		return fmt.Errorf("%s: %w", origin.Attempt(op, path), origin.ErrChanged)
	case a.status == http.StatusUnauthorized, a.status == http.StatusForbidden:
		return o.refused(op, path, a)
	}
	return fmt.Errorf("%s: %w", origin.Attempt(op, path), a)
}

// mostSkew is how far a request's time may be off; see RequestTimeTooSkewed at
// https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html.
const mostSkew = 15 * time.Minute

// refused tells a clock that is wrong from credentials that are. The answer to a
// HEAD has no code.
func (o *Origin) refused(op, path string, a *answer) error {
	e := &origin.RefusedError{Op: op, Path: path, Origin: o.described()}
	off := a.skew.Abs().Round(time.Minute)
	if a.code == codeSkewed || a.code == "" && off > mostSkew {
		e.Cause = "this machine's clock is off by " + off.String()
		e.Advice = "set it, for example by NTP"
		return e
	}
	e.Cause = strings.TrimSpace(fmt.Sprintf("it refused the credentials (%d %s", a.status, a.code)) + ")"
	e.Advice = "check access_key_id, secret_access_key and what their R2 API token may do"
	return e
}

const codeSkewed = "RequestTimeTooSkewed"

func (o *Origin) described() string { return "bucket " + o.bucket + " at " + o.endpoint }

// notFound tells a missing object from anything else that is missing. The
// answer to a HEAD has no code, and is asked for only once a GET has found the
// bucket and an object.
func (o *Origin) notFound(c *call, op, path string, a *answer) error {
	switch {
	case a.code == "NoSuchKey", c.operation == opHead:
		return origin.NotExist(op, path)
	case a.code == "NoSuchBucket":
		return &origin.RefusedError{
			Op: op, Path: path, Origin: o.described(),
			Cause:  "there is no such bucket",
			Advice: "create it, or correct bucket, account_id or jurisdiction",
		}
	case a.code == "NoSuchUpload":
		// Aborted by somebody, or completed by a request whose answer was lost.
		return unavailable(op, path, a)
	}
	return fmt.Errorf("%s: %w", origin.Attempt(op, path), a)
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
