package main

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestQuantile(t *testing.T) {
	for _, test := range []struct {
		values []float64
		q      float64
		want   float64
	}{
		{nil, 0.5, 0},
		{[]float64{7}, 0, 7},
		{[]float64{7}, 1, 7},
		{[]float64{3, 1, 2}, 0.5, 2},
		{[]float64{4, 1, 3, 2}, 0.5, 2},
		{[]float64{4, 1, 3, 2}, 0.99, 4},
	} {
		if got := quantile(test.values, test.q); got != test.want {
			t.Errorf("quantile(%v, %v) = %v, want %v", test.values, test.q, got, test.want)
		}
	}
}

func TestReplaceSection(t *testing.T) {
	before := "# Title\n" + sectionBegin + "old\n" + sectionEnd + "rest\n"
	once, err := replaceSection(before, "new\n")
	if err != nil {
		t.Fatal(err)
	}
	if want := "# Title\n" + sectionBegin + "\nnew\n\n" + sectionEnd + "rest\n"; once != want {
		t.Errorf("got %q, want %q", once, want)
	}
	if twice, err := replaceSection(once, "new\n"); err != nil || twice != once {
		t.Errorf("a second time: %q, %v", twice, err)
	}
	for _, text := range []string{"", sectionBegin, sectionEnd, sectionEnd + sectionBegin} {
		if got, err := replaceSection(text, "new\n"); err == nil {
			t.Errorf("%q became %q, want an error", text, got)
		}
	}
}

// TestReadme: bench.sh finds its place in the README.
func TestReadme(t *testing.T) {
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := replaceSection(string(text), "new\n"); err != nil {
		t.Error(err)
	}
}

func TestParseStrace(t *testing.T) {
	calls := parseStrace("    calls syscall\n--------- ----------------\n      917 sendfile\n        1 write\n--------- ----------------\n      918 total\n")
	if calls["sendfile"] != 917 || calls["write"] != 1 || calls["pread64"] != 0 {
		t.Errorf("got %v", calls)
	}
}

// TestPlainClient: it takes whole answers only, with a length and status 200.
func TestPlainClient(t *testing.T) {
	for _, test := range []struct {
		name   string
		serve  http.HandlerFunc
		wantOK bool
	}{
		{"whole", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "body") }, true},
		{"absent", http.NotFound, false},
		{"cut off", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "10")
			io.WriteString(w, "body")
			panic(http.ErrAbortHandler)
		}, false},
		{"without a length", func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, "body")
			w.(http.Flusher).Flush()
		}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			server := httptest.NewServer(test.serve)
			defer server.Close()
			c, err := dialPlain(strings.TrimPrefix(server.URL, "http://"), "/")
			if err != nil {
				t.Fatal(err)
			}
			defer c.close()
			for range 2 { // the second time on a connection that was used
				var body bytes.Buffer
				_, n, err := c.get(&body)
				if (err == nil) != test.wantOK {
					t.Fatalf("got %d bytes, %v", n, err)
				}
				if err != nil {
					return
				}
				if body.String() != "body" {
					t.Errorf("got %q", body.String())
				}
			}
		})
	}
}

func TestDistantOrigin(t *testing.T) {
	var host atomic.Value
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host.Store(r.Host)
		w.Header().Set("Content-Length", "100000")
		w.Write(make([]byte, 100_000))
	}))
	defer upstream.Close()
	o, err := startDistantOrigin(strings.TrimPrefix(upstream.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer o.stop()
	s := subject{name: "origin", address: o.address, path: "/file"}
	for range 2 {
		if _, n, err := s.once(io.Discard); err != nil || n != 100_000 {
			t.Fatalf("got %d bytes, %v", n, err)
		}
	}
	if host.Load() != o.address {
		t.Errorf("the upstream saw host %q, not the one that was signed, %q", host.Load(), o.address)
	}
	if got, want := o.seen(), (traffic{requests: 2, parts: 1, bytes: 200_000}); got != want {
		t.Errorf("it saw %+v, want %+v", got, want)
	}
	if got := o.seen(); got != (traffic{}) {
		t.Errorf("then %+v, want nothing", got)
	}
	o.far.Store(true)
	start := time.Now()
	if _, _, err := s.once(io.Discard); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took < distance {
		t.Errorf("from far away it took %v, less than %v", took, distance)
	}
}

func TestComparer(t *testing.T) {
	for _, test := range []struct {
		body   string
		wantOK bool
	}{{"the file", true}, {"the fil", false}, {"the fils", false}, {"the file!", false}, {"", false}} {
		c := &comparer{want: []byte("the file")}
		_, err := io.Copy(struct{ io.Writer }{c}, strings.NewReader(test.body))
		if err == nil {
			err = c.whole()
		}
		if (err == nil) != test.wantOK {
			t.Errorf("%q: %v", test.body, err)
		}
	}
}

// TestMakeFiles: each file is another one, and the same in each run.
func TestMakeFiles(t *testing.T) {
	var paths []string
	for range 2 {
		m := &fileMaker{dir: t.TempDir()}
		for range 2 {
			f, err := m.nar(1000)
			if err != nil {
				t.Fatal(err)
			}
			info, err := os.Stat(f.disk)
			if err != nil || info.Size() != 1000 {
				t.Errorf("%s: %v, %v", f.disk, info, err)
			}
			paths = append(paths, f.path)
		}
	}
	if paths[0] == paths[1] || paths[0] != paths[2] || paths[1] != paths[3] {
		t.Errorf("got %q", paths)
	}
}
