package r2_test

import (
	"io"
	"maps"
	"net/http"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/stevedores-org/nix-cache/caddymodule/origin"
	"github.com/stevedores-org/nix-cache/caddymodule/origin/r2"
)

// multipart is a server that takes uploads, as far as a test lets it.
type multipart struct {
	mu struct {
		sync.Mutex
		parts map[string]int // number to length
		log   []string       // steps but for parts, which come in any order
	}
	fail map[string]int // method and step to status
}

func (m *multipart) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // The client has given this part up.
	}
	query := r.URL.Query()
	step := "part"
	switch {
	case query.Has("uploads"):
		step = "create"
	case r.Method == http.MethodPost:
		step = "complete"
	case r.Method == http.MethodDelete:
		step = "abort"
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if step != "part" {
		m.mu.log = append(m.mu.log, step)
	}
	if status := m.fail[step]; status != 0 {
		fail(w, status, "Injected")
		return
	}
	switch step {
	case "create":
		io.WriteString(w, "<InitiateMultipartUploadResult><UploadId>id</UploadId></InitiateMultipartUploadResult>")
	case "part":
		m.mu.parts[query.Get("partNumber")] = len(body)
		w.Header().Set("ETag", `"part"`)
	case "complete":
		io.WriteString(w, "<CompleteMultipartUploadResult><ETag>x</ETag></CompleteMultipartUploadResult>")
	case "abort":
		w.WriteHeader(http.StatusNoContent)
	}
}

func TestMultipart(t *testing.T) {
	const part = r2.MinPartSize
	for _, tt := range []struct {
		name string
		fail map[string]int
		size int
		want string // kind of error
		log  []string
	}{
		{"equal parts", nil, 2*part + 1, "none", []string{"create", "complete"}},
		{"create refused", map[string]int{"create": 400}, 2 * part, "other", []string{"create"}},
		{"part refused", map[string]int{"part": 400}, part + 1, "other", []string{"create", "abort"}},
		{"complete refused", map[string]int{"complete": 400}, part + 1, "other", []string{"create", "complete", "abort"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server := &multipart{fail: tt.fail}
				server.mu.parts = make(map[string]int)
				config := valid()
				config.PartSize = part
				b := serve(t, config, server.ServeHTTP)
				err := put(t.Context(), b, make([]byte, tt.size), origin.CreateOptions{Size: -1})
				if kind(err) != tt.want {
					t.Errorf("%v is %q, want %q", err, kind(err), tt.want)
				}
				server.mu.Lock()
				defer server.mu.Unlock()
				if log := server.mu.log; !slices.Equal(log, tt.log) {
					t.Errorf("steps %q, want %q", log, tt.log)
				}
				want := map[string]int{"1": part, "2": part, "3": 1}
				if parts := server.mu.parts; tt.want == "none" && !maps.Equal(parts, want) {
					t.Errorf("parts of %v bytes, want %v", parts, want)
				}
			})
		})
	}
}

// TestOnePartIsOneRequest: at the size of a part, and for both ways to say it.
func TestOnePartIsOneRequest(t *testing.T) {
	for _, announced := range []int64{-1, r2.MinPartSize} {
		synctest.Test(t, func(t *testing.T) {
			var length int64
			config := valid()
			config.PartSize = r2.MinPartSize
			b := serve(t, config, func(w http.ResponseWriter, r *http.Request) {
				length = r.ContentLength
				io.Copy(io.Discard, r.Body)
			})
			if err := put(t.Context(), b, make([]byte, r2.MinPartSize), origin.CreateOptions{Size: announced}); err != nil {
				t.Fatal(err)
			}
			if got := b.summary(); !slices.Equal(got, []string{"put a ok"}) || length != r2.MinPartSize {
				t.Errorf("operations %q with Content-Length %d, want one put of %d", got, length, r2.MinPartSize)
			}
		})
	}
}

// discard answers 200 with nothing.
func (*multipart) discard(w http.ResponseWriter, r *http.Request) {
	io.Copy(io.Discard, r.Body)
	w.Header().Set("Content-Length", "0")
}
