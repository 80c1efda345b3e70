package r2

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stevedores-org/nix-cache/caddymodule/origin/limit"
)

// Operation is one request that has ended, a repeated one each time.
type Operation struct {
	// Name is one of get, head, put, list, delete, create-multipart,
	// upload-part, complete, abort and list-multipart.
	Name string

	// Class is the one R2 bills it as, a, b or free; see
	// https://developers.cloudflare.com/r2/pricing/.
	Class string

	// Outcome is one of ok, absent (404), condition (412), range (416),
	// throttled (429), refused (401, 403), failed (any other answer, or a
	// connection that broke), timeout and canceled.
	Outcome string

	// Duration is the time from the request until the end of its answer, for
	// get until the body was closed. Waiting for other requests comes before.
	Duration time.Duration

	// Bytes is the length of the object's data in it, sent or received.
	Bytes int64
}

// operation is what is known of an Operation beforehand.
type operation struct{ name, class string }

var (
	opGet        = operation{"get", "b"}
	opHead       = operation{"head", "b"}
	opPut        = operation{"put", "a"}
	opList       = operation{"list", "a"}
	opDelete     = operation{"delete", "free"}
	opCreate     = operation{"create-multipart", "a"}
	opUploadPart = operation{"upload-part", "a"}
	opComplete   = operation{"complete", "a"}
	opAbort      = operation{"abort", "free"}

	opListMultipart = operation{"list-multipart", "a"}
)

// call is one use of the SDK, which may become several requests.
type call struct {
	operation
	place *limit.Place // if it took one of its own
	lost  atomic.Bool  // a request may have taken effect though its answer says nothing of it
}

type callKey struct{}

// begin names the operation that requests under the context belong to. They have
// their place in the budget already.
func begin(ctx context.Context, op operation) (context.Context, *call) {
	c := &call{operation: op}
	return context.WithValue(ctx, callKey{}, c), c
}

// beginIn is begin for a call that takes a place of its own. The caller gives it
// back: the call keeps it while its request is repeated. It waits with patience:
// what a client has sent already would be lost.
func (o *Origin) beginIn(ctx context.Context, class limit.Class, op operation, name, path string) (context.Context, *call, error) {
	place, err := o.budget.Take(ctx, limit.Request{Class: class, Op: name, Path: path, Continues: true})
	if err != nil {
		return nil, nil, err
	}
	ctx, c := begin(ctx, op)
	c.place = place
	return ctx, c, nil
}

// requester sends requests and reports them.
type requester struct {
	client  *http.Client
	observe func(Operation)
}

func newRequester(cfg Config, transport *http.Transport) *requester {
	observe := cfg.Observe
	if observe == nil {
		observe = func(Operation) {}
	}
	return &requester{
		client: &http.Client{
			Transport:     transport,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		observe: observe,
	}
}

// Do implements s3.HTTPClient.
func (r *requester) Do(req *http.Request) (*http.Response, error) {
	c, ok := req.Context().Value(callKey{}).(*call)
	if !ok {
		return nil, errors.New("request of an unnamed operation")
	}
	e := &exchange{r: r, call: c, begun: time.Now(), sent: req.ContentLength}
	resp, err := r.client.Do(req)
	if err != nil {
		c.lost.Store(true)
		e.end(failure(err))
		return nil, err
	}
	if resp.StatusCode >= http.StatusInternalServerError {
		c.lost.Store(true)
	}
	e.body, e.outcome = resp.Body, outcome(resp.StatusCode)
	resp.Body = e
	return resp, nil
}

// exchange is a request under way, and then its answer's body.
type exchange struct {
	r       *requester
	call    *call
	begun   time.Time
	sent    int64
	outcome string
	body    io.ReadCloser
	got     atomic.Int64
	failed  atomic.Pointer[error]
	once    sync.Once
}

func (e *exchange) Read(p []byte) (int, error) {
	n, err := e.body.Read(p)
	e.got.Add(int64(n))
	if err != nil && err != io.EOF {
		e.call.lost.Store(true)
		e.failed.CompareAndSwap(nil, &err)
	}
	return n, err
}

func (e *exchange) Close() error {
	err := e.body.Close()
	outcome := e.outcome
	if failed := e.failed.Load(); failed != nil {
		outcome = failure(*failed)
	}
	e.end(outcome)
	return err
}

// end reports, once.
func (e *exchange) end(outcome string) {
	e.once.Do(func() {
		e.r.observe(Operation{
			Name:     e.call.name,
			Class:    e.call.class,
			Outcome:  outcome,
			Duration: time.Since(e.begun),
			Bytes:    e.bytes(outcome),
		})
	})
}

func (e *exchange) bytes(outcome string) int64 {
	switch e.call.operation {
	case opGet:
		if e.outcome == "ok" {
			return e.got.Load()
		}
	case opPut, opUploadPart:
		if outcome == "ok" {
			return max(e.sent, 0)
		}
	}
	return 0
}

func outcome(status int) string {
	switch {
	case status >= 200 && status < 300:
		return "ok"
	case status == http.StatusNotFound:
		return "absent"
	case status == http.StatusPreconditionFailed:
		return "condition"
	case status == http.StatusRequestedRangeNotSatisfiable:
		return "range"
	case status == http.StatusTooManyRequests:
		return "throttled"
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return "refused"
	}
	return "failed"
}

func failure(err error) string {
	switch {
	case errors.Is(err, context.Canceled):
		return "canceled"
	case isTimeout(err):
		return "timeout"
	}
	return "failed"
}

func isTimeout(err error) bool {
	timeout, ok := errors.AsType[net.Error](err)
	return ok && timeout.Timeout() || errors.Is(err, context.DeadlineExceeded)
}
