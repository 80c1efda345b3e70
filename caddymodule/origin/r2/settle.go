package r2

import (
	"context"
	"fmt"
	"io/fs"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/stevedores-org/nix-cache/caddymodule/origin"
)

const (
	// markKey is the name, in an object's metadata, of what tells which write
	// it comes from.
	markKey = "nix-cache-write"

	// settleTimeout bounds what comes after all attempts to write.
	settleTimeout = 15 * time.Second
)

func marked(mark string) map[string]string { return map[string]string{markKey: mark} }

// commitProblem is problem for the request that makes an object visible.
//
//	request ──▶ takes effect ──▶ its answer is lost ──▶ repeated: 412, or NoSuchUpload
//
// So such an answer says nothing before it is settled whose object is there.
func (o *Origin) commitProblem(ctx context.Context, c *call, path, mark string, opts origin.CreateOptions, err error) error {
	if err == nil {
		return nil
	}
	refused := o.refusal(ctx, c, path, opts, err)
	a := answerOf(err)
	ambiguous := a == nil || a.status == http.StatusPreconditionFailed || a.status == http.StatusNotFound
	if !c.lost.Load() || !ambiguous || ctx.Err() != nil {
		return refused
	}
	return o.settle(ctx, path, mark, refused)
}

// refusal is what an answer to a commit says by itself.
func (o *Origin) refusal(ctx context.Context, c *call, path string, opts origin.CreateOptions, err error) error {
	a := answerOf(err)
	unmet := a != nil && (a.status == http.StatusPreconditionFailed ||
		opts.IfMatch != "" && a.code == "NoSuchKey")
	switch {
	case !unmet:
		return o.problem(ctx, c, "commit", path, err)
	case opts.IfMatch != "":
		return fmt.Errorf("commit %s: %w", path, origin.ErrChanged)
	}
	return &fs.PathError{Op: "commit", Path: path, Err: fs.ErrExist}
}

// settle looks whether the object is that of the write with this mark: then the
// write took effect, whatever its last answer was. Else the refusal holds. It has
// the write's place.
func (o *Origin) settle(ctx context.Context, path, mark string, refused error) error {
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	ctx, _ = begin(ctx, opHead)
	out, err := o.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &o.bucket, Key: o.key(path)})
	if err == nil {
		if out.Metadata[markKey] == mark {
			return nil
		}
		return refused
	}
	if a := answerOf(err); a != nil && a.status == http.StatusNotFound {
		return refused
	}
	return unavailable("commit", path, fmt.Errorf("%w, after a request without an answer", refused))
}
