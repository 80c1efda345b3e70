package r2_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stevedores-org/nix-cache/caddymodule/origin"
	"github.com/stevedores-org/nix-cache/caddymodule/origin/r2"
)

func TestSilentServerTimesOut(t *testing.T) {
	for _, op := range operations {
		t.Run(op.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := serve(t, valid(), func(w http.ResponseWriter, r *http.Request) {
					io.Copy(io.Discard, r.Body)
					<-r.Context().Done()
				})
				begin := time.Now()
				err := op.do(t.Context(), b)
				if kind(err) != "timeout" {
					t.Errorf("%v is %q, want timeout", err, kind(err))
				}
				if took := time.Since(begin); took > 5*r2.Inactivity+time.Minute {
					t.Errorf("took %v", took)
				}
			})
		})
	}
}

func TestDeadlineOfCallerIsTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := serve(t, valid(), func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := b.Stat(ctx, path)
		if kind(err) != "timeout" || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Stat = %v, want a timeout that is context.DeadlineExceeded", err)
		}
	})
}

func TestBodyThatStallsOrBreaks(t *testing.T) {
	const size = 100_000
	for _, tt := range []struct {
		name string
		end  func(w http.ResponseWriter, r *http.Request)
		want string
	}{
		{"stalls", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, "timeout"},
		{"breaks", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "unavailable"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := serve(t, valid(), func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("Content-Length", fmt.Sprint(size))
					w.Write(make([]byte, size/2))
					w.(http.Flusher).Flush()
					tt.end(w, r)
				})
				info, body, err := b.Open(t.Context(), path, origin.OpenOptions{})
				if err != nil || info.Size != size {
					t.Fatalf("Open = %+v, %v", info, err)
				}
				defer body.Close()
				n, err := io.Copy(io.Discard, body)
				if n != size/2 || kind(err) != tt.want {
					t.Errorf("read %d bytes, %v is %q; want %d and %q", n, err, kind(err), size/2, tt.want)
				}
				if tt.name == "breaks" && !errors.Is(err, io.ErrUnexpectedEOF) {
					t.Errorf("the body ends with %v, want io.ErrUnexpectedEOF", err)
				}
			})
		})
	}
}

// TestSlowReaderIsNoStall: a body that nobody reads from for long goes on.
func TestSlowReaderIsNoStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size = 1 << 20
		b := serve(t, valid(), func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", fmt.Sprint(size))
			w.Write(make([]byte, size))
		})
		_, body, err := b.Open(t.Context(), path, origin.OpenOptions{})
		if err != nil {
			t.Fatal(err)
		}
		defer body.Close()
		read := 0
		buf := make([]byte, size/4)
		for range 4 {
			<-time.After(3 * r2.Inactivity)
			n, err := io.ReadFull(body, buf)
			if err != nil {
				t.Fatal(err)
			}
			read += n
		}
		if _, err := body.Read(buf); read != size || err != io.EOF {
			t.Errorf("read %d bytes, then %v", read, err)
		}
	})
}

func TestAnswerOfUnknownLength(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := serve(t, valid(), func(w http.ResponseWriter, r *http.Request) { w.Write(make([]byte, 1<<20)) })
		if _, _, err := b.Open(t.Context(), path, origin.OpenOptions{}); kind(err) != "unavailable" {
			t.Errorf("Open = %v, want unavailable: its end could not be told", err)
		}
	})
}

func TestReadsAndWhatTheyCost(t *testing.T) {
	const size = 10
	object := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"etag"`)
		http.ServeContent(w, r, "", time.Unix(1, 0), strings.NewReader("0123456789"[:size]))
	}
	for _, tt := range []struct {
		name string
		opts origin.OpenOptions
		want []string
	}{
		{"whole", origin.OpenOptions{}, []string{"get b ok"}},
		{"head", origin.OpenOptions{Length: 4}, []string{"get b ok"}},
		{"all and more", origin.OpenOptions{Length: 40}, []string{"get b ok"}},
		{"past the end", origin.OpenOptions{Offset: 40, Length: 4}, []string{"get b range", "head b ok"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := serve(t, valid(), object)
				info, body, err := b.Open(t.Context(), path, tt.opts)
				if err != nil {
					t.Fatal(err)
				}
				data, err := io.ReadAll(body)
				if err != nil {
					t.Error(err)
				}
				body.Close()
				if info.Size != size || info.ETag != `"etag"` || !info.ModTime.Equal(time.Unix(1, 0)) {
					t.Errorf("described as %+v", info)
				}
				if got := b.summary(); !slices.Equal(got, tt.want) {
					t.Errorf("operations %q, want %q", got, tt.want)
				}
				if n := b.operations()[0].Bytes; n != int64(len(data)) {
					t.Errorf("%d bytes reported, %d read", n, len(data))
				}
			})
		})
	}
}

// TestAnswerToAnotherRange: bytes from elsewhere are not passed off as those
// that were asked for.
func TestAnswerToAnotherRange(t *testing.T) {
	for _, contentRange := range []string{"bytes 0-9/100", "bytes 10-14/100", "bytes */100", "nonsense"} {
		synctest.Test(t, func(t *testing.T) {
			b := serve(t, valid(), func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Range", contentRange)
				w.WriteHeader(http.StatusPartialContent)
				io.WriteString(w, "0123456789")
			})
			_, _, err := b.Open(t.Context(), path, origin.OpenOptions{Offset: 10, Length: 10})
			if kind(err) != "unavailable" {
				t.Errorf("Content-Range %q: Open = %v, want unavailable", contentRange, err)
			}
		})
	}
}
