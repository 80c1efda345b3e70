package caddymodule

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stevedores-org/nix-cache/caddymodule/auth"
)

// TestQuietLog: a minute has the first lines with a message, and of the others the
// latest, with their number.
func TestQuietLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lines, take := linesOf()
		quiet := newQuietLog(lines.With("cache", "c").Handler())
		log := slog.New(quiet)
		flood := func(n int) {
			for i := range n {
				log.With("path", fmt.Sprint("nar/", i)).Warn("not stored on disk", "error", "full")
			}
		}
		wantFirst := func() {
			t.Helper()
			want := make([]string, mostLines)
			for i := range want {
				want[i] = fmt.Sprintf("level=WARN msg=\"not stored on disk\" cache=c path=nar/%d error=full", i)
			}
			wantLines(t, take(), want...)
		}
		flood(100)
		wantFirst()
		log.Error("not stored on disk")
		log.Warn("fill failed")
		wantLines(t, take(), "level=ERROR", "fill failed")
		for range 2 {
			time.Sleep(logInterval + 1)
			wantLines(t, take(), "level=WARN msg=\"not stored on disk\" cache=c path=nar/99 error=full more=90")
			flood(100)
			wantFirst()
		}
		time.Sleep(logInterval)
		wantLines(t, take(), "more=90")
		time.Sleep(logInterval)
		wantLines(t, take())
		flood(mostLines + 1)
		wantFirst()
		quiet.end()
		wantLines(t, take(), "path=nar/10 |more=1")
		flood(mostLines + 1)
		if n := len(take()); n != mostLines+1 {
			t.Errorf("%d lines after the end, want %d", n, mostLines+1)
		}
	})
}

// TestQuietLogIsBounded: where there are too many messages, all that are new are
// logged.
func TestQuietLogIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lines, take := linesOf()
		quiet := newQuietLog(lines.Handler())
		defer quiet.end()
		for i := range 2 * mostKinds {
			slog.New(quiet).Warn(fmt.Sprint("message ", i))
		}
		if n, kept := len(take()), len(quiet.lines.mu.runs); n != 2*mostKinds || kept != mostKinds {
			t.Errorf("%d lines, want %d; %d messages are counted, want %d", n, 2*mostKinds, kept, mostKinds)
		}
	})
}

// TestStrangersDoNotFillTheLog: what a token does that is known is told in a line
// each, what all others do in one a minute.
func TestStrangersDoNotFillTheLog(t *testing.T) {
	for _, test := range []struct {
		name, method, secret string
		disabled             bool
		status               int // of the first answer
		lines                int // of 30
	}{
		{name: "no token", method: "PUT", status: http.StatusUnauthorized, lines: 1},
		{name: "a deletion without a token", method: "DELETE", status: http.StatusUnauthorized, lines: 1},
		{name: "an unknown token", method: "PUT", secret: "wrong", status: http.StatusForbidden, lines: 1},
		{name: "uploads disabled", method: "PUT", secret: "pusher", disabled: true, status: http.StatusServiceUnavailable, lines: 1},
		{name: "a token without the right", method: "DELETE", secret: "pusher", status: http.StatusForbidden, lines: 30},
		{name: "a read without the right", method: "GET", secret: "pusher", status: http.StatusForbidden, lines: 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := privateHandler(t)
			if test.disabled {
				h.set.authorities = auth.Authorities{new(auth.Tokens)}
			}
			synctest.Test(t, func(t *testing.T) {
				var take func() []string
				h.log, take = linesOf()
				h.serving = t.Context()
				flood := func() []string {
					for i := range 30 {
						if status := requestFrom(t, h, test.method, test.secret); i == 0 && status != test.status {
							t.Errorf("status %d, want %d", status, test.status)
						}
					}
					return take()
				}
				if lines := flood(); len(lines) != test.lines || !strings.Contains(lines[0], "client=192.0.2.81") {
					t.Errorf("%d lines, want %d: %q", len(lines), test.lines, lines)
				}
				time.Sleep(logInterval)
				if lines := flood(); len(lines) != test.lines {
					t.Errorf("%d lines in the next minute, want %d: %q", len(lines), test.lines, lines)
				}
			})
		})
	}
}

// requestFrom makes a request from one client, with a secret or none.
func requestFrom(t *testing.T, h *Handler, method, secret string) (status int) {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), method, hotNARInfo, nil)
	if secret != "" {
		r.SetBasicAuth("any", secret)
	}
	w := httptest.NewRecorder()
	serveRecorded(t, h, w, from(r, "192.0.2.81"))
	return w.Code
}

// TestLeavingStrangersDoNotFillTheLog: nor those that leave before their answer.
func TestLeavingStrangersDoNotFillTheLog(t *testing.T) {
	h := privateHandler(t)
	synctest.Test(t, func(t *testing.T) {
		var take func() []string
		h.log, take = linesOf()
		h.serving = t.Context()
		for range 30 {
			gone, leave := context.WithCancel(t.Context())
			r := httptest.NewRequestWithContext(gone, "PUT", hotNARInfo, nil)
			r.SetBasicAuth("any", "wrong")
			leave()
			serveRecorded(t, h, httptest.NewRecorder(), from(r, "192.0.2.82"))
		}
		wantLines(t, take(), "msg=refused")
	})
}
