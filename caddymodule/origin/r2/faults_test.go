package r2_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stevedores-org/nix-cache/caddymodule/origin"
	"github.com/stevedores-org/nix-cache/caddymodule/origin/r2"
)

// store is a bucket of one object, which takes uploads as far as its fault lets
// it.
type store struct {
	fault func(step string, attempt int, w http.ResponseWriter, r *http.Request, next http.HandlerFunc)
	mu    struct {
		sync.Mutex
		attempts map[string]int // by step and part
		parts    map[string][]byte
		mark     string // of the upload under way
		object   []byte // nil: none
		objMark  string
		aborted  int
	}
}

func newStore() *store {
	s := &store{}
	s.mu.attempts = make(map[string]int)
	s.mu.parts = make(map[string][]byte)
	return s
}

func stepOf(r *http.Request) string {
	query := r.URL.Query()
	switch {
	case query.Has("uploads") && r.Method == http.MethodPost:
		return "create"
	case query.Has("partNumber"):
		return "part " + query.Get("partNumber")
	case query.Has("uploadId") && r.Method == http.MethodPost:
		return "complete"
	case query.Has("uploadId"):
		return "abort"
	}
	return strings.ToLower(r.Method)
}

func (s *store) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	step := stepOf(r)
	s.mu.Lock()
	s.mu.attempts[step]++
	attempt := s.mu.attempts[step]
	s.mu.Unlock()
	if s.fault != nil {
		s.fault(step, attempt, w, r, s.serve)
		return
	}
	s.serve(w, r)
}

func (s *store) serve(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // The client has given this attempt up.
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	mark := r.Header.Get("X-Amz-Meta-Nix-Cache-Write")
	switch step := stepOf(r); step {
	case "create":
		s.mu.mark = mark
		io.WriteString(w, "<InitiateMultipartUploadResult><UploadId>id</UploadId></InitiateMultipartUploadResult>")
	case "complete":
		s.complete(w, r)
	case "abort":
		s.mu.aborted++
		clear(s.mu.parts)
		w.WriteHeader(http.StatusNoContent)
	case "put":
		if s.mu.object != nil && r.Header.Get("If-None-Match") == "*" {
			fail(w, http.StatusPreconditionFailed, "PreconditionFailed")
			return
		}
		s.mu.object, s.mu.objMark = body, mark
	case "head":
		if s.mu.object == nil {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		w.Header().Set("X-Amz-Meta-Nix-Cache-Write", s.mu.objMark)
	default:
		s.mu.parts[strings.TrimPrefix(step, "part ")] = body
		w.Header().Set("ETag", `"part"`)
	}
}

func (s *store) complete(w http.ResponseWriter, r *http.Request) {
	switch {
	case len(s.mu.parts) == 0:
		fail(w, http.StatusNotFound, "NoSuchUpload")
		return
	case s.mu.object != nil && r.Header.Get("If-None-Match") == "*":
		fail(w, http.StatusPreconditionFailed, "PreconditionFailed")
		return
	}
	var object []byte
	for i := range len(s.mu.parts) {
		object = append(object, s.mu.parts[fmt.Sprint(i+1)]...)
	}
	s.mu.object, s.mu.objMark = object, s.mu.mark
	clear(s.mu.parts)
	io.WriteString(w, "<CompleteMultipartUploadResult><ETag>x</ETag></CompleteMultipartUploadResult>")
}

// ways in which a request fails before it takes effect.
var ways = []struct {
	name string
	fail func(w http.ResponseWriter, r *http.Request)
	want string // kind of error if it does so each time
}{
	{"429", func(w http.ResponseWriter, r *http.Request) { fail(w, 429, "TooManyRequests") }, "unavailable"},
	{"500", func(w http.ResponseWriter, r *http.Request) { fail(w, 500, "InternalError") }, "unavailable"},
	{"503", func(w http.ResponseWriter, r *http.Request) { fail(w, 503, "SlowDown") }, "unavailable"},
	{"reset", func(w http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) }, "unavailable"},
	{"reset in its middle", func(w http.ResponseWriter, r *http.Request) {
		io.CopyN(io.Discard, r.Body, 1<<20)
		panic(http.ErrAbortHandler)
	}, "unavailable"},
	{"stall in its middle", func(w http.ResponseWriter, r *http.Request) {
		io.CopyN(io.Discard, r.Body, 1<<20)
		<-time.After(24 * time.Hour)
		panic(http.ErrAbortHandler)
	}, "timeout"},
	{"stall after its end", func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
	}, "timeout"},
}

// testData is not the same in any two places, so that parts that are mixed up
// show.
func testData(size int) []byte {
	data := make([]byte, size)
	rand.NewChaCha8([32]byte{}).Read(data)
	return data
}

func smallParts() r2.Config {
	config := valid()
	config.PartSize = r2.MinPartSize
	return config
}

// TestUploadOutlivesFaults: whatever a request of an upload meets, it is sent
// again whole, and the object is what was written.
func TestUploadOutlivesFaults(t *testing.T) {
	data := testData(r2.MinPartSize + 100)
	for _, steps := range []struct {
		step  string
		times int
	}{
		{"create", 3}, {"part 1", 5}, {"part 2", 5}, {"complete", 5},
	} {
		for _, way := range ways {
			t.Run(steps.step+"/"+way.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := newStore()
					s.fault = func(step string, attempt int, w http.ResponseWriter, r *http.Request, next http.HandlerFunc) {
						if step == steps.step && attempt <= steps.times {
							way.fail(w, r)
							return
						}
						next(w, r)
					}
					b := serve(t, smallParts(), s.ServeHTTP)
					if err := put(t.Context(), b, data, origin.CreateOptions{Size: int64(len(data)), IfAbsent: true}); err != nil {
						t.Fatal(err)
					}
					s.mu.Lock()
					defer s.mu.Unlock()
					if !bytes.Equal(s.mu.object, data) {
						t.Errorf("the object has %d bytes that are not those written", len(s.mu.object))
					}
					if n := s.mu.attempts[steps.step]; n != steps.times+1 {
						t.Errorf("%d requests, want %d", n, steps.times+1)
					}
				})
			})
		}
	}
}

// TestUploadGivesUp: after a bounded number of attempts it fails, nothing is
// visible, and what was sent is dropped.
func TestUploadGivesUp(t *testing.T) {
	data := testData(r2.MinPartSize + 100)
	for _, steps := range []struct {
		step            string
		attempts, abort int
	}{
		{"create", 4, 0}, {"part 1", 6, 1}, {"complete", 6, 1},
	} {
		for _, way := range ways {
			t.Run(steps.step+"/"+way.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := newStore()
					s.fault = func(step string, attempt int, w http.ResponseWriter, r *http.Request, next http.HandlerFunc) {
						if step == steps.step {
							way.fail(w, r)
							return
						}
						next(w, r)
					}
					b := serve(t, smallParts(), s.ServeHTTP)
					begun := time.Now()
					err := put(t.Context(), b, data, origin.CreateOptions{Size: int64(len(data)), IfAbsent: true})
					if kind(err) != way.want {
						t.Errorf("%v is %q, want %q", err, kind(err), way.want)
					}
					if took := time.Since(begun); took > 5*time.Minute {
						t.Errorf("took %v: its client has given up", took)
					}
					s.mu.Lock()
					defer s.mu.Unlock()
					if s.mu.object != nil || s.mu.aborted != steps.abort || len(s.mu.parts) != 0 {
						t.Errorf("object of %d bytes, aborted %d times, %d parts left", len(s.mu.object), s.mu.aborted, len(s.mu.parts))
					}
					if n := s.mu.attempts[steps.step]; n != steps.attempts {
						t.Errorf("%d requests, want %d", n, steps.attempts)
					}
				})
			})
		}
	}
}

// TestSlowUplinkIsNoStall: a part may take as long as it takes.
func TestSlowUplinkIsNoStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore()
		s.fault = func(step string, attempt int, w http.ResponseWriter, r *http.Request, next http.HandlerFunc) {
			if step == "part 1" {
				r.Body = slowly{r.Body}
			}
			next(w, r)
		}
		b := serve(t, smallParts(), s.ServeHTTP)
		begun := time.Now()
		data := testData(r2.MinPartSize + 100)
		if err := put(t.Context(), b, data, origin.CreateOptions{Size: -1}); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begun); took < 10*r2.Inactivity {
			t.Errorf("the part took %v only", took)
		}
		if s.mu.attempts["part 1"] != 1 || !bytes.Equal(s.mu.object, data) {
			t.Errorf("%d attempts, object of %d bytes", s.mu.attempts["part 1"], len(s.mu.object))
		}
	})
}

// slowly reads 16 KiB a second.
type slowly struct{ io.ReadCloser }

func (s slowly) Read(p []byte) (int, error) {
	<-time.After(time.Second)
	return s.ReadCloser.Read(p[:min(len(p), 16<<10)])
}

// TestLostAnswers: a write that took effect is reported as done, whatever the
// answers to its repetitions are, and somebody else's is not taken for it.
func TestLostAnswers(t *testing.T) {
	lose := func(w http.ResponseWriter, r *http.Request, next http.HandlerFunc) {
		next(discarded{make(http.Header)}, r)
		panic(http.ErrAbortHandler)
	}
	cut := func(w http.ResponseWriter, r *http.Request, next http.HandlerFunc) {
		next(discarded{make(http.Header)}, r)
		w.Header().Set("Content-Length", "1000")
		io.WriteString(w, "<CompleteMultipart")
		http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	rival := func(s *store) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.mu.object, s.mu.objMark = []byte("rival"), "another"
	}
	for _, tt := range []struct {
		name string
		size int
		step string
		opts origin.CreateOptions
		lost func(s *store, attempt int, w http.ResponseWriter, r *http.Request)
		want string // kind of error
	}{
		{"put", 10, "put", origin.CreateOptions{IfAbsent: true}, func(s *store, attempt int, w http.ResponseWriter, r *http.Request) {
			lose(w, r, s.serve)
		}, "none"},
		{"put, then another's", 10, "put", origin.CreateOptions{IfAbsent: true}, func(s *store, attempt int, w http.ResponseWriter, r *http.Request) {
			rival(s)
			panic(http.ErrAbortHandler)
		}, "exist"},
		{"complete", r2.MinPartSize + 1, "complete", origin.CreateOptions{}, func(s *store, attempt int, w http.ResponseWriter, r *http.Request) {
			lose(w, r, s.serve)
		}, "none"},
		{"complete, answer cut", r2.MinPartSize + 1, "complete", origin.CreateOptions{}, func(s *store, attempt int, w http.ResponseWriter, r *http.Request) {
			cut(w, r, s.serve)
		}, "none"},
		{"complete if absent", r2.MinPartSize + 1, "complete", origin.CreateOptions{IfAbsent: true}, func(s *store, attempt int, w http.ResponseWriter, r *http.Request) {
			lose(w, r, s.serve)
		}, "none"},
		{"complete if absent, but another was first", r2.MinPartSize + 1, "complete", origin.CreateOptions{IfAbsent: true}, func(s *store, attempt int, w http.ResponseWriter, r *http.Request) {
			rival(s)
			panic(http.ErrAbortHandler)
		}, "exist"},
		{"complete of what was aborted", r2.MinPartSize + 1, "complete", origin.CreateOptions{}, func(s *store, attempt int, w http.ResponseWriter, r *http.Request) {
			s.mu.Lock()
			clear(s.mu.parts)
			s.mu.Unlock()
			panic(http.ErrAbortHandler)
		}, "unavailable"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStore()
				s.fault = func(step string, attempt int, w http.ResponseWriter, r *http.Request, next http.HandlerFunc) {
					if step == tt.step && attempt == 1 {
						tt.lost(s, attempt, w, r)
						return
					}
					next(w, r)
				}
				b := serve(t, smallParts(), s.ServeHTTP)
				data := testData(tt.size)
				tt.opts.Size = -1
				err := put(t.Context(), b, data, tt.opts)
				if kind(err) != tt.want {
					t.Errorf("%v is %q, want %q", err, kind(err), tt.want)
				}
				s.mu.Lock()
				defer s.mu.Unlock()
				if whole := bytes.Equal(s.mu.object, data); whole != (tt.want == "none") {
					t.Errorf("the object is there: %v", whole)
				}
			})
		})
	}
}

// discarded is where answers go that never arrive.
type discarded struct{ header http.Header }

func (d discarded) Header() http.Header         { return d.header }
func (d discarded) Write(p []byte) (int, error) { return len(p), nil }
func (d discarded) WriteHeader(int)             {}

// TestSpool: uploads that hang take memory up to the limit only, and those that
// go on do so, with all their bytes and nothing left behind.
func TestSpool(t *testing.T) {
	dir := t.TempDir() + "/spool"
	synctest.Test(t, func(t *testing.T) {
		s := newStore()
		s.fault = func(step string, attempt int, w http.ResponseWriter, r *http.Request, next http.HandlerFunc) {
			if step == "part 1" && attempt == 1 { // read from the file twice
				io.CopyN(io.Discard, r.Body, 1<<20)
				panic(http.ErrAbortHandler)
			}
			next(w, r)
		}
		config := smallParts()
		config.SpoolDir, config.SpoolMemory = dir, 7<<20
		b := serve(t, config, s.ServeHTTP)
		data := testData(2*r2.MinPartSize + 100)
		var hanging []origin.Staged
		for _, size := range []int{10, 2 << 20, r2.MinPartSize - 1, r2.MinPartSize} {
			staged, err := b.Create(t.Context(), fmt.Sprint("nar/", size), origin.CreateOptions{Size: -1})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := staged.Write(data[:size]); err != nil {
				t.Fatal(err)
			}
			hanging = append(hanging, staged)
		}
		for _, size := range []int64{-1, int64(len(data))} {
			clear(s.mu.attempts)
			if err := put(t.Context(), b, data, origin.CreateOptions{Size: size}); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(s.mu.object, data) {
				t.Errorf("the object has %d bytes that are not those written", len(s.mu.object))
			}
		}
		for _, staged := range hanging {
			if err := staged.Commit(); err != nil {
				t.Error(err)
			}
		}
		if last := data[:r2.MinPartSize]; !bytes.Equal(s.mu.object, last) {
			t.Errorf("the last object has %d bytes that are not those written", len(s.mu.object))
		}
		if n := b.SpoolUsed(); n != 0 {
			t.Errorf("%d bytes of memory are still in use", n)
		}
	})
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// TestSpoolHasALimit: no more than that is in memory, and small objects take
// what they have.
func TestSpoolHasALimit(t *testing.T) {
	config := valid()
	config.SpoolDir, config.SpoolMemory = t.TempDir(), 8<<20
	o, err := r2.New(config)
	if err != nil {
		t.Fatal(err)
	}
	var most int64
	var all []origin.Staged
	for i := range 100 {
		size := int64(1+i%3) << 20
		staged, err := o.Create(t.Context(), "nar/a", origin.CreateOptions{Size: size})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := staged.Write(make([]byte, size)); err != nil {
			t.Fatal(err)
		}
		most = max(most, o.SpoolUsed())
		all = append(all, staged)
	}
	for _, staged := range all {
		if err := staged.Abort(); err != nil {
			t.Error(err)
		}
	}
	if most != config.SpoolMemory || o.SpoolUsed() != 0 {
		t.Errorf("took %d bytes of %d, and holds %d", most, config.SpoolMemory, o.SpoolUsed())
	}
	small, err := o.Create(context.Background(), "a.narinfo", origin.CreateOptions{Size: 500})
	if err != nil {
		t.Fatal(err)
	}
	defer small.Abort()
	if _, err := small.Write(make([]byte, 500)); err != nil || o.SpoolUsed() != 500 {
		t.Errorf("500 bytes take up %d, %v", o.SpoolUsed(), err)
	}
}

// TestSpoolOnABrokenDisk: an upload that finds no room there goes on in memory.
func TestSpoolOnABrokenDisk(t *testing.T) {
	file := t.TempDir() + "/file"
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		s := newStore()
		config := smallParts()
		config.SpoolDir, config.SpoolMemory = file+"/spool", r2.MinPartSize
		b := serve(t, config, s.ServeHTTP)
		first, err := b.Create(t.Context(), path, origin.CreateOptions{Size: -1})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := first.Write(testData(r2.MinPartSize)); err != nil {
			t.Fatal(err)
		}
		if err := put(t.Context(), b, testData(2<<20), origin.CreateOptions{Size: -1}); err != nil {
			t.Errorf("put = %v", err)
		}
		if err := first.Commit(); err != nil {
			t.Error(err)
		}
		if got := b.summary(); !slices.Equal(got, []string{"put a ok", "put a ok"}) {
			t.Errorf("operations %q", got)
		}
	})
}
