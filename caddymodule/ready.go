package caddymodule

import (
	"context"
	"crypto/tls"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"syscall"
	"time"

	"github.com/stevedores-org/nix-cache/caddymodule/cache/disk"
	"github.com/stevedores-org/nix-cache/caddymodule/origin"
)

const (
	// readyTimeout is how long the origin may take to answer.
	readyTimeout = 5 * time.Second

	// readyInterval is how often it is asked at the most, by whoever wants to
	// know.
	readyInterval = time.Second

	// watchInterval is how often an origin that did not answer is asked again,
	// where nobody wants to know.
	watchInterval = 15 * time.Second
)

// readiness knows whether the origin answers. It asks at most once a second, for
// all who want to know meanwhile.
type readiness struct {
	origin origin.Reader
	log    *slog.Logger
	up     func(bool) // is told of each answer
	ctx    context.Context
	cancel context.CancelFunc
	work   sync.WaitGroup

	mu struct {
		sync.Mutex
		last  *readyCheck // nil: none yet
		told  string      // what the log says: notTold, "" for ready, or why not
		ended bool
	}
}

// readyCheck is one question to the origin.
type readyCheck struct {
	begun time.Time
	done  chan struct{}
	err   error // valid once done is closed
}

func newReadiness(o origin.Reader, log *slog.Logger, up func(bool)) *readiness {
	r := &readiness{origin: o, log: log, up: up}
	r.mu.told = notTold
	r.ctx, r.cancel = context.WithCancel(context.Background())
	return r
}

// ask returns nil if the origin answers, or else why not.
func (r *readiness) ask(ctx context.Context) error {
	c := r.latest()
	if c == nil {
		return context.Canceled
	}
	select {
	case <-c.done:
		return c.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// latest returns the question that is under way, or was answered just now, or a
// new one; nil after end.
func (r *readiness) latest() *readyCheck {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c := r.mu.last; c != nil && (c.underWay() || time.Since(c.begun) < readyInterval) {
		return c
	}
	if r.mu.ended {
		return nil
	}
	c := &readyCheck{begun: time.Now(), done: make(chan struct{})}
	r.mu.last = c
	r.work.Go(func() {
		defer close(c.done)
		c.err = r.check()
		r.note(c.err)
	})
	return c
}

func (c *readyCheck) underWay() bool {
	select {
	case <-c.done:
		return false
	default:
		return true
	}
}

// check asks for a file. That the origin lacks it is an answer.
func (r *readiness) check() error {
	ctx, cancel := context.WithTimeout(r.ctx, readyTimeout)
	defer cancel()
	_, err := r.origin.Stat(ctx, "nix-cache-info")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

const notTold = "not told yet"

// note has the log say how the origin answers at first, and from then on when it
// begins to refuse and when it does no more. An outage is the guard's to tell.
func (r *readiness) note(err error) {
	if r.ctx.Err() != nil {
		return
	}
	if !errors.As(err, new(*origin.BusyError)) {
		r.up(err == nil)
	}
	switch reason, news := r.tell(err); {
	case !news:
	case reason == "":
		r.log.Info("ready: the origin answers")
	default:
		r.log.Error("not ready", "error", err)
	}
}

// tell returns what is to be logged, if it is news.
func (r *readiness) tell(err error) (reason string, news bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if isOutage(err) && r.mu.told != notTold {
		return "", false
	}
	if err != nil {
		reason = err.Error()
	}
	news = reason != r.mu.told
	r.mu.told = reason
	return reason, news
}

// isOutage reports whether an error says that the origin can't answer just now.
func isOutage(err error) bool {
	return errors.As(err, new(*origin.UnavailableError)) || errors.As(err, new(*origin.BusyError))
}

// watch asks for the first time, and then as long as there is no good answer.
func (r *readiness) watch() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.mu.ended {
		return
	}
	r.work.Go(func() {
		r.ask(r.ctx) // note says what comes of it
		tick := time.NewTicker(watchInterval)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
			case <-r.ctx.Done():
				return
			}
			if r.lastFailed() {
				r.ask(r.ctx)
			}
		}
	})
}

func (r *readiness) lastFailed() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.mu.last != nil && !r.mu.last.underWay() && r.mu.last.err != nil
}

// end gives up what is under way.
func (r *readiness) end() {
	r.mu.Lock()
	r.mu.ended = true
	r.mu.Unlock()
	r.cancel()
	r.work.Wait()
}

func (h *Handler) serveReady(a *answer) {
	if err := h.ready.ask(a.r.Context()); err != nil {
		a.w.Header().Set("Retry-After", retryAfter)
		h.healthAnswer(a, http.StatusServiceUnavailable, health{Status: "unavailable", Detail: publicCause(err)})
		return
	}
	h.healthAnswer(a, http.StatusOK, health{Status: "ok", Detail: "the origin answers" + h.diskDetail()})
}

// diskDetail says for anybody why the disk tier is not in use, if it is to be.
func (h *Handler) diskDetail() string {
	if h.pooled == nil {
		return ""
	}
	tiers := h.pooled.cache.Tiers()
	if !tiers.DiskWanted || tiers.DiskOpen {
		return ""
	}
	return "; the disk tier is not in use: " + publicDiskCause(tiers.DiskErr)
}

// publicDiskCause is publicCause for the disk tier: the log has its directory and
// what to do.
func publicDiskCause(err error) string {
	switch {
	case err == nil:
		return "it is being opened"
	case errors.Is(err, disk.ErrStalled):
		return "its disk does not answer"
	case errors.Is(err, disk.ErrInUse):
		return "another process has its directory"
	case errors.As(err, new(*disk.ForeignError)):
		return "its directory has files of others"
	case errors.Is(err, fs.ErrPermission):
		return "permission denied"
	case errors.Is(err, syscall.EROFS):
		return "its file system is read-only"
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return "its file system is full"
	default:
		return "the log has the reason"
	}
}

// publicCause says why the origin gives nothing, in words for anybody: there is
// no name in it, neither of a bucket nor of a host. The log has these.
func publicCause(err error) string {
	var (
		refused     *origin.RefusedError
		unavailable *origin.UnavailableError
		busy        *origin.BusyError
		lookup      *net.DNSError
		certificate *tls.CertificateVerificationError
	)
	switch {
	case errors.As(err, &refused):
		return "the origin can't be used: " + refused.Cause + "; " + refused.Advice
	case errors.As(err, &busy):
		return "the cache is busy: too many requests wait for the origin"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "the origin does not answer: it refuses the connection"
	case errors.As(err, &lookup):
		return "the origin does not answer: its host name can't be looked up"
	case errors.As(err, &certificate):
		return "the origin does not answer: its certificate is not trusted"
	case errors.Is(err, fs.ErrPermission):
		return "the origin's directory can't be used: permission denied"
	case errors.As(err, &unavailable) && unavailable.Timeout, errors.Is(err, context.DeadlineExceeded):
		return "the origin does not answer in time"
	case errors.As(err, &unavailable):
		return "the origin does not answer; the log has the reason"
	default:
		return "the origin can't be used; the log has the reason"
	}
}
