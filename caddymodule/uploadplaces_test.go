package caddymodule

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

// silentBody has a byte after each pause, and then no more until the deadline.
type silentBody struct {
	pauses   []time.Duration
	deadline time.Time
	sets     int
}

func (b *silentBody) SetReadDeadline(at time.Time) error {
	b.deadline = at
	b.sets++
	return nil
}

func (b *silentBody) Read(p []byte) (int, error) {
	if len(b.pauses) > 0 && time.Until(b.deadline) > b.pauses[0] {
		time.Sleep(b.pauses[0])
		b.pauses = b.pauses[1:]
		return 1, nil
	}
	time.Sleep(time.Until(b.deadline))
	return 0, os.ErrDeadlineExceeded
}

func (*silentBody) Close() error { return nil }

type deadlineWriter struct {
	http.ResponseWriter
	*silentBody
}

func (w deadlineWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// TestSteadyBody: a client that hardly sends is given up after a minute of waiting
// for it, and one that sends may take as long as it likes.
func TestSteadyBody(t *testing.T) {
	for name, test := range map[string]struct {
		pauses []time.Duration
		lasts  time.Duration
	}{
		"nothing":           {nil, time.Minute},
		"a byte at its end": {[]time.Duration{59 * time.Second}, time.Minute},
		"bytes now and then": {[]time.Duration{20 * time.Second, 20 * time.Second, 19 * time.Second, 20 * time.Second},
			time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				body := &silentBody{pauses: test.pauses}
				r := httptest.NewRequestWithContext(t.Context(), http.MethodPut, "/", body)
				begun := time.Now()
				_, err := io.Copy(io.Discard, newSteadyBody(&answer{w: deadlineWriter{httptest.NewRecorder(), body}, r: r}))
				if lasted := time.Since(begun).Round(time.Second); !errors.Is(err, errTooSlow) || lasted != test.lasts {
					t.Errorf("%v after %v, want it given up after %v", err, lasted, test.lasts)
				}
				if !body.deadline.IsZero() {
					t.Error("a deadline stays behind")
				}
			})
		})
	}
}

func TestSteadyBodyOfAClientThatSends(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		body := &steadySender{left: 200}
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPut, "/", body)
		n, err := io.Copy(io.Discard, newSteadyBody(&answer{w: httptest.NewRecorder(), r: r}))
		if err != nil || n != 200*1000 {
			t.Errorf("%d bytes, %v", n, err)
		}
	})
}

// steadySender sends 1000 bytes in three seconds.
type steadySender struct{ left int }

func (b *steadySender) Read(p []byte) (int, error) {
	if b.left--; b.left < 0 {
		return 0, io.EOF
	}
	time.Sleep(3 * time.Second)
	return 1000, nil
}

func (*steadySender) Close() error { return nil }
