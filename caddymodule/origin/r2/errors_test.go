package r2_test

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stevedores-org/nix-cache/caddymodule/origin"
	"github.com/stevedores-org/nix-cache/caddymodule/origin/r2"
)

// kinds of error that the contract tells apart.
func kind(err error) string {
	unavailable, ok := errors.AsType[*origin.UnavailableError](err)
	switch {
	case err == nil:
		return "none"
	case ok && unavailable.Timeout:
		return "timeout"
	case ok:
		return "unavailable"
	case errors.Is(err, fs.ErrNotExist):
		return "not exist"
	case errors.Is(err, fs.ErrExist):
		return "exist"
	case errors.Is(err, origin.ErrChanged):
		return "changed"
	}
	return "other"
}

func TestErrorsOfEachCode(t *testing.T) {
	all := func(kind string) map[string]string { return map[string]string{"": kind} }
	for _, tt := range []struct {
		status   int
		code     string
		requests int               // by one operation
		want     map[string]string // kind by operation; "": the others
	}{
		{404, "NoSuchKey", 1, map[string]string{"commit if-match": "changed", "": "not exist"}},
		{404, "NoSuchBucket", 1, all("other")},
		{404, "NoSuchUpload", 1, all("unavailable")},
		{401, "Unauthorized", 1, all("other")},
		{403, "AccessDenied", 1, all("other")},
		{403, "SignatureDoesNotMatch", 1, all("other")},
		{403, "InvalidAccessKeyId", 1, all("other")},
		{412, "PreconditionFailed", 1, map[string]string{"commit": "exist", "": "changed"}},
		{400, "InvalidArgument", 1, all("other")},
		{400, "InvalidPart", 1, all("other")},
		{411, "MissingContentLength", 1, all("other")},
		{501, "NotImplemented", 1, all("other")},
		{429, "TooManyRequests", 4, all("unavailable")},
		{500, "InternalError", 4, all("unavailable")},
		{502, "BadGateway", 4, all("unavailable")},
		{503, "ServiceUnavailable", 4, all("unavailable")},
		{504, "GatewayTimeout", 4, all("unavailable")},
	} {
		for _, op := range operations {
			t.Run(fmt.Sprintf("%d %s/%s", tt.status, tt.code, op.name), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					config := valid()
					config.PartSize = r2.MinPartSize
					b := serve(t, config, func(w http.ResponseWriter, r *http.Request) { fail(w, tt.status, tt.code) })
					err := op.do(t.Context(), b)
					want, ok := tt.want[op.name]
					if !ok {
						want = tt.want[""]
					}
					if kind(err) != want {
						t.Errorf("%v is %q, want %q", err, kind(err), want)
					}
					if n := len(b.operations()); n != tt.requests {
						t.Errorf("%d requests, want %d", n, tt.requests)
					}
					wantOneLine(t, err)
				})
			})
		}
	}
}

// TestRefusals: what a stranger may read of them has no name in it.
func TestRefusals(t *testing.T) {
	const wrongClock = "this machine's clock is off by 20m0s"
	for _, tt := range []struct {
		status int
		code   string
		skew   time.Duration
		cause  string
	}{
		{404, "NoSuchBucket", 0, "there is no such bucket"},
		{403, "AccessDenied", 0, "it refused the credentials (403 AccessDenied)"},
		{403, "SignatureDoesNotMatch", 0, "it refused the credentials (403 SignatureDoesNotMatch)"},
		{403, "RequestTimeTooSkewed", 20 * time.Minute, wrongClock},
		{403, "", 20 * time.Minute, wrongClock},
		{403, "", -20 * time.Minute, wrongClock},
		{403, "", time.Minute, "it refused the credentials (403)"},
		{403, "AccessDenied", 20 * time.Minute, "it refused the credentials (403 AccessDenied)"},
	} {
		t.Run(fmt.Sprint(tt), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := serve(t, valid(), func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("Date", time.Now().Add(-tt.skew).UTC().Format(http.TimeFormat))
					fail(w, tt.status, tt.code)
				})
				_, _, err := b.Open(t.Context(), "a", origin.OpenOptions{})
				var refused *origin.RefusedError
				if !errors.As(err, &refused) || refused.Cause != tt.cause {
					t.Fatalf("error %v, want one with the cause %q", err, tt.cause)
				}
				wantOneLine(t, err)
			})
		})
	}
}

// TestAnswersOfOthers: what a proxy or a captive portal says is no answer about
// an object.
func TestAnswersOfOthers(t *testing.T) {
	for _, tt := range []struct {
		status int
		body   string
		want   string
	}{
		{404, "<html>not found</html>", "other"},
		{404, "", "other"},
		{503, "<html>busy</html>", "unavailable"},
		{522, "error code: 522", "unavailable"},
		{302, "", "other"},
	} {
		for _, op := range operations[:2] {
			t.Run(fmt.Sprintf("%d %q/%s", tt.status, tt.body, op.name), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					b := serve(t, valid(), func(w http.ResponseWriter, r *http.Request) {
						w.Header().Set("Location", "http://elsewhere.test/")
						w.WriteHeader(tt.status)
						io.WriteString(w, tt.body)
					})
					if err := op.do(t.Context(), b); kind(err) != tt.want {
						t.Errorf("%v is %q, want %q", err, kind(err), tt.want)
					}
				})
			})
		}
	}
}

func TestConnectionRefused(t *testing.T) {
	for _, op := range operations {
		t.Run(op.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				network := &pipes{done: make(chan struct{})}
				network.Close()
				config := valid()
				o, err := r2.NewThrough(config, network.dial, nil)
				if err != nil {
					t.Fatal(err)
				}
				if err := op.do(t.Context(), o); kind(err) != "unavailable" {
					t.Errorf("%v is %q, want unavailable", err, kind(err))
				}
			})
		})
	}
}

// TestTooManyRequestsWaitsASecond: R2 takes one write per second to an object.
func TestTooManyRequestsWaitsASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var times []time.Time
		b := serve(t, valid(), func(w http.ResponseWriter, r *http.Request) {
			times = append(times, time.Now())
			if len(times) < 3 {
				fail(w, 429, "TooManyRequests")
			}
		})
		if err := put(t.Context(), b, []byte("x"), origin.CreateOptions{Size: 1}); err != nil {
			t.Fatal(err)
		}
		if len(times) != 3 {
			t.Fatalf("%d attempts, want 3", len(times))
		}
		for i := range 2 {
			if wait := times[i+1].Sub(times[i]); wait < time.Second {
				t.Errorf("wait %d took %v, want a second at least", i, wait)
			}
		}
	})
}
