package caddymodule

import (
	"context"
	"errors"
	"net/http"
	"os"
	"time"

	"github.com/stevedores-org/nix-cache/caddymodule/internal/fair"
	"github.com/stevedores-org/nix-cache/caddymodule/nix"
)

// How many uploads may be under way in the process: of files that can be large, and
// of small ones. Nix sends up to 125 at a time, so that one has places for all of
// them; what is beyond waits with its body unread.
var (
	largeUploads = fair.New(fair.Bounds{Places: 192, Each: 144, Waiting: 1024})
	smallUploads = fair.New(fair.Bounds{Places: 192, Each: 144, Waiting: 1024})
)

// uploadWait is the longest that an upload waits for a place: Nix gives one up after
// five minutes without a byte.
const uploadWait = time.Minute

// errUploadsBusy says that an upload found no place.
var errUploadsBusy = errors.New("too many uploads are under way")

// takePlace waits for the place of a token's upload.
func (h *Handler) takePlace(ctx context.Context, kind nix.Kind, token string) (giveBack func(), err error) {
	places := smallUploads
	if kind == nix.KindNAR || kind == nix.KindListing || kind == nix.KindLog {
		places = largeUploads
	}
	within, cancel := context.WithTimeout(ctx, uploadWait)
	defer cancel()
	giveBack, err = places.Take(within, h.uploader(token))
	if err != nil && ctx.Err() == nil {
		err = errUploadsBusy
	}
	return giveBack, err
}

// uploader names who shares places: tokens of one name in two caches are two.
func (h *Handler) uploader(token string) string { return h.set.name + "/" + token }

// An upload that holds a place has to come on: a client may be silent for
// maxSilence, and earns as much again by each byte, at so many a second. That is what
// a slow line has left for one upload of many.
const (
	maxSilence = time.Minute
	leastRate  = 256 // bytes per second
)

// errTooSlow says that a client hardly sent anything.
var errTooSlow = errors.New("hardly anything came for a minute")

// steadyBody reads a request's body as long as it comes on. The time between reads
// is not the client's.
type steadyBody struct {
	a    *answer
	left time.Duration // of silence
	set  time.Time     // the deadline that is set
}

func newSteadyBody(a *answer) *steadyBody { return &steadyBody{a: a, left: maxSilence} }

func (b *steadyBody) Read(p []byte) (int, error) {
	begun := time.Now()
	if at := begun.Add(b.left); at.Sub(b.set).Abs() > time.Second { // it costs something over HTTP/2
		b.deadline(at)
	}
	n, err := b.a.r.Body.Read(p)
	b.left -= time.Since(begun)
	b.left = min(b.left+time.Duration(n)*time.Second/leastRate, maxSilence)
	if err == nil {
		return n, nil
	}
	b.deadline(time.Time{}) // what is watched from here on is that the client stays
	if errors.Is(err, os.ErrDeadlineExceeded) && b.a.r.Context().Err() == nil {
		err = errTooSlow
	}
	return n, err
}

// deadline is of no use to who is cut: see uploadSet, which sets one of its own.
func (b *steadyBody) deadline(at time.Time) {
	b.set = at
	control := http.NewResponseController(b.a.w)
	control.SetReadDeadline(at)
	if b.a.r.Context().Err() != nil {
		control.SetReadDeadline(time.Now())
	}
}
