package caddymodule

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"
)

// uploads are those of all handlers, also of configs that are on their way out,
// and deletions.
var uploads = newUploadSet()

// errStopping says that a request was cut since the process ends.
var errStopping = errors.New("the process ends")

// cut reports whether the request was ended since the process ends.
func (a *answer) cut() bool { return errors.Is(context.Cause(a.r.Context()), errStopping) }

// uploadSet is the uploads that are under way, so that they can be ended.
type uploadSet struct {
	ctx      context.Context // ends by cut
	end      context.CancelCauseFunc
	underWay sync.WaitGroup
	mu       sync.Mutex // so that none begins after cut
}

func newUploadSet() *uploadSet {
	s := new(uploadSet)
	s.ctx, s.end = context.WithCancelCause(context.Background())
	return s
}

// begin has a request's context end by cut, too, and returns what is to be called
// when the request is done. cut also ends the reading of the body: a client that
// sends nothing, or a byte now and then, would hold the process up.
func (s *uploadSet) begin(a *answer) (end func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() != nil {
		return nil, errStopping
	}
	s.underWay.Add(1)
	ctx, cancel := context.WithCancelCause(a.r.Context())
	cutting := make(chan struct{})
	stop := context.AfterFunc(s.ctx, func() {
		defer close(cutting)
		cancel(errStopping)
		http.NewResponseController(a.w).SetReadDeadline(time.Now())
	})
	a.r = a.r.WithContext(ctx)
	return func() {
		if !stop() { // a.w must not be used after the request
			<-cutting
		}
		cancel(nil)
		s.underWay.Done()
	}, nil
}

// cut ends all uploads, soon.
func (s *uploadSet) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.end(errStopping)
}

// wait returns when none is under way, after cut.
func (s *uploadSet) wait(ctx context.Context) {
	ended := make(chan struct{})
	go func() {
		s.underWay.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-ctx.Done():
	}
}
