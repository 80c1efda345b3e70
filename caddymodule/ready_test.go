package caddymodule

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stevedores-org/nix-cache/caddymodule/cache/disk"
	"github.com/stevedores-org/nix-cache/caddymodule/origin"
	"github.com/stevedores-org/nix-cache/caddymodule/origin/guard"
)

// slowOrigin answers a Stat after a while, and counts them.
type slowOrigin struct {
	origin.Reader
	asked atomic.Int64
	mu    struct {
		sync.Mutex
		takes time.Duration
		err   error
	}
}

// answers sets what it answers from now on, and after how long.
func (o *slowOrigin) answers(err error, takes time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.mu.err, o.mu.takes = err, takes
}

func (o *slowOrigin) Stat(ctx context.Context, path string) (origin.Info, error) {
	o.asked.Add(1)
	o.mu.Lock()
	err, takes := o.mu.err, o.mu.takes
	o.mu.Unlock()
	select {
	case <-time.After(takes):
		return origin.Info{}, err
	case <-ctx.Done():
		return origin.Info{}, ctx.Err()
	}
}

func wantAsked(t *testing.T, o *slowOrigin, up *atomic.Bool, asked int64, isUp bool) {
	t.Helper()
	if got := o.asked.Load(); got != asked || up.Load() != isUp {
		t.Errorf("asked %d times, want %d; up: %v, want %v", got, asked, up.Load(), isUp)
	}
}

// TestReadinessIsShared: those who ask meanwhile wait for one answer, which is
// good for a second.
func TestReadinessIsShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, take := linesOf()
		o, up := new(slowOrigin), new(atomic.Bool)
		o.answers(errors.New("no"), 300*time.Millisecond)
		r := newReadiness(o, log, up.Store)
		defer r.end()
		for range 300 {
			go func() {
				if err := r.ask(t.Context()); err == nil {
					t.Error("an origin that refuses is ready")
				}
			}()
		}
		time.Sleep(readyInterval - 1)
		synctest.Wait()
		r.ask(t.Context())
		wantAsked(t, o, up, 1, false)
		wantLines(t, take(), "not ready|error=no")
		time.Sleep(1)
		synctest.Wait()
		o.answers(nil, 0)
		if err := r.ask(t.Context()); err != nil {
			t.Error(err)
		}
		wantAsked(t, o, up, 2, true)
		wantLines(t, take(), "ready: the origin answers")
	})
}

// TestReadinessIsWatched: an origin that does not answer at the start is asked
// again until it does, and no more after that.
func TestReadinessIsWatched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, take := linesOf()
		o, up := new(slowOrigin), new(atomic.Bool)
		o.answers(&origin.UnavailableError{Op: "stat", Path: "a", Err: errors.New("gone")}, 0)
		r := newReadiness(o, log, up.Store)
		r.watch()
		time.Sleep(3*watchInterval + 1)
		synctest.Wait()
		wantAsked(t, o, up, 4, false)
		wantLines(t, take(), "not ready|gone")
		o.answers(nil, 0)
		time.Sleep(10 * watchInterval)
		synctest.Wait()
		wantAsked(t, o, up, 5, true)
		wantLines(t, take(), "ready: the origin answers")
		o.answers(nil, time.Hour)
		go r.ask(t.Context())
		synctest.Wait()
		r.end()
	})
}

// TestPublicCause: what anybody may read has neither host nor directory in it.
func TestPublicCause(t *testing.T) {
	unavailable := func(err error) error { return &origin.UnavailableError{Op: "stat", Path: "a", Err: err} }
	for _, test := range []struct {
		err  error
		want string
	}{
		{&origin.RefusedError{Op: "stat", Origin: "bucket b at https://host.example", Cause: "there is no such bucket", Advice: "create it"}, "there is no such bucket; create it"},
		{&origin.BusyError{Op: "stat"}, "too many requests wait"},
		{unavailable(&net.OpError{Op: "dial", Addr: &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1)}, Err: syscall.ECONNREFUSED}), "it refuses the connection"},
		{unavailable(fmt.Errorf("%w: %w", guard.ErrNotAsked, syscall.ECONNREFUSED)), "it refuses the connection"},
		{unavailable(&net.DNSError{Err: "no such host", Name: "host.example"}), "its host name can't be looked up"},
		{unavailable(&tls.CertificateVerificationError{Err: errors.New("for host.example")}), "its certificate is not trusted"},
		{unavailable(fmt.Errorf("%w; let user 7 read /srv/cache", fs.ErrPermission)), "permission denied"},
		{&origin.UnavailableError{Op: "stat", Timeout: true, Err: errors.New("10.0.0.1")}, "does not answer in time"},
		{unavailable(errors.New("10.0.0.1 reset it")), "the log has the reason"},
		{errors.New("of host.example"), "the log has the reason"},
	} {
		got := publicCause(test.err)
		if !strings.Contains(got, test.want) || strings.Contains(got, "example") || strings.Contains(got, "10.0.0.1") || strings.Contains(got, "/srv") {
			t.Errorf("%v: %q, want %q", test.err, got, test.want)
		}
	}
}

// TestPublicDiskCause: nor has what they may read of the disk tier.
func TestPublicDiskCause(t *testing.T) {
	for _, test := range []struct {
		err  error
		want string
	}{
		{nil, "it is being opened"},
		{disk.ErrStalled, "its disk does not answer"},
		{disk.ErrInUse, "another process has its directory"},
		{&disk.ForeignError{Dir: "/srv/tier", Names: []string{"notes"}}, "its directory has files of others"},
		{&fs.PathError{Op: "open", Path: "/srv/tier/lock", Err: syscall.EACCES}, "permission denied"},
		{&fs.PathError{Op: "open", Path: "/srv/tier/lock", Err: syscall.EROFS}, "its file system is read-only"},
		{&fs.PathError{Op: "open", Path: "/srv/tier/lock", Err: syscall.ENOSPC}, "its file system is full"},
		{errors.New("of /srv/tier"), "the log has the reason"},
	} {
		err := test.err
		if err != nil {
			err = fmt.Errorf("open disk tier /srv/tier: %w", err)
		}
		if got := publicDiskCause(err); got != test.want {
			t.Errorf("%v: %q, want %q", err, got, test.want)
		}
	}
}
