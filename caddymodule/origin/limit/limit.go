// Package limit bounds how many requests there are to one bucket at a time. It
// stands above the layer that judges the answers, so that the wait for a place
// counts for no answer, and before anything is made for a request, so that those
// that wait cost little.
//
//	Open, Stat, Delete ── take a place ── ask ── the body is closed ── give it back
//	                   │                     ── its turn is over: ErrTurnOver
//	                   ── too many wait, or for too long: BusyError
//
// Small requests always have places of their own; clients share the others
// fairly. The package knows nothing of HTTP, of the formats of files, or of why
// a request is made.
package limit

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/stevedores-org/nix-cache/caddymodule/origin"
)

// A client gives up a transfer that stands still for 5 minutes. So that each of
// hundreds moves on over a slow link, a read of a range is over when it has lasted
// for turnTime, has brought turnBytes, and others wait for its place. Its reader
// takes it up again there.
const (
	turnTime  = 20 * time.Second
	turnBytes = 1 << 20
)

// ErrTurnOver is the end of the body of a range that has had its place for so long
// that it is the turn of others.
var ErrTurnOver = errors.New("others wait for the origin: to be read on later")

// Origin is an origin, the reads and deletions of which take places from a
// budget. Create and List pass: they are one request or many, so the origin below
// takes a place for each.
type Origin struct {
	origin.Origin
	budget *Budget
	kind   func(path string) (class Class, hasty bool)
}

var _ origin.Origin = (*Origin)(nil)

// New returns o within a budget. kind says of a file by which class of requests it
// is read, and whether they are hasty.
func New(o origin.Origin, budget *Budget, kind func(path string) (class Class, hasty bool)) *Origin {
	return &Origin{Origin: o, budget: budget, kind: kind}
}

// Waiting returns how many requests wait for their place.
func (o *Origin) Waiting() int { return o.budget.Waiting() }

// Open implements [origin.Reader]. The place is taken until the body is closed, or
// for a range (opts.Length) until its turn is over. What has an IfMatch goes on
// with a file that somebody reads already.
func (o *Origin) Open(ctx context.Context, path string, opts origin.OpenOptions) (origin.Info, io.ReadCloser, error) {
	class, hasty := o.kind(path)
	place, err := o.budget.Take(ctx, Request{Class: class, Op: "open", Path: path, Offset: opts.Offset, Continues: opts.IfMatch != "", Hasty: hasty})
	if err != nil {
		return origin.Info{}, nil, err
	}
	info, rc, err := o.Origin.Open(ctx, path, opts)
	if err != nil {
		place.GiveBack()
		return info, nil, err
	}
	if opts.Length == 0 {
		return info, &body{rc, place}, nil
	}
	return info, &turn{body: body{rc, place}, until: time.Now().Add(turnTime)}, nil
}

// Stat implements [origin.Reader].
func (o *Origin) Stat(ctx context.Context, path string) (origin.Info, error) {
	place, err := o.budget.Take(ctx, Request{Class: Small, Op: "stat", Path: path})
	if err != nil {
		return origin.Info{}, err
	}
	defer place.GiveBack()
	return o.Origin.Stat(ctx, path)
}

// Delete implements [origin.Writer].
func (o *Origin) Delete(ctx context.Context, path string) error {
	place, err := o.budget.Take(ctx, Request{Class: Small, Op: "delete", Path: path})
	if err != nil {
		return err
	}
	defer place.GiveBack()
	return o.Origin.Delete(ctx, path)
}

// body gives the place back.
type body struct {
	io.ReadCloser
	place *Place
}

func (b *body) Close() error {
	defer b.place.GiveBack()
	return b.ReadCloser.Close()
}

// turn is the body of a range.
type turn struct {
	body
	until time.Time
	read  int64
	over  bool
}

func (t *turn) Read(p []byte) (int, error) {
	if t.over {
		return 0, ErrTurnOver
	}
	n, err := t.ReadCloser.Read(p)
	t.read += int64(n)
	if err == nil && t.read >= turnBytes && time.Now().After(t.until) && t.place.wanted() {
		t.over = true
		t.Close() // what it brought is good; what goes wrong now is no matter
	}
	return n, err
}
