package r2_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stevedores-org/nix-cache/caddymodule/origin"
	"github.com/stevedores-org/nix-cache/caddymodule/origin/r2"
)

const path = "nar/a.nar.xz"

// pipes is a network of one server, without sockets: time in it is synctest's.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.done) })
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipes"} }

func (p *pipes) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case p.conns <- server:
		return client, nil
	case <-p.done:
		return nil, errors.New("connection refused")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// bucket is an origin and the operations it has reported.
type bucket struct {
	*r2.Origin
	mu struct {
		sync.Mutex
		operations []r2.Operation
	}
}

func (b *bucket) operations() []r2.Operation {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.mu.operations)
}

// summary is "name class outcome" of each operation.
func (b *bucket) summary() []string {
	lines := []string{}
	for _, op := range b.operations() {
		lines = append(lines, op.Name+" "+op.Class+" "+op.Outcome)
	}
	return lines
}

// serve returns an origin before handler, in a bubble of its own.
func serve(t *testing.T, config r2.Config, handler http.HandlerFunc) *bucket {
	t.Helper()
	network := &pipes{conns: make(chan net.Conn), done: make(chan struct{})}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		handler(w, r)
		// Or the server lingers before it closes the connection.
		io.Copy(io.Discard, r.Body)
	})}
	go server.Serve(network)
	// Close would leave connections behind that linger after a cut request.
	t.Cleanup(func() { server.Shutdown(context.Background()) })

	b := &bucket{}
	config.AccountID, config.Endpoint = "", "http://r2.test"
	config.Observe = func(op r2.Operation) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.mu.operations = append(b.mu.operations, op)
	}
	var err error
	if b.Origin, err = r2.NewThrough(config, network.dial, nil); err != nil {
		t.Fatal(err)
	}
	return b
}

func fail(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	fmt.Fprintf(w, "<?xml version=\"1.0\"?><Error><Code>%s</Code><Message>A message.</Message></Error>", code)
}

func put(ctx context.Context, o origin.Origin, data []byte, opts origin.CreateOptions) error {
	staged, err := o.Create(ctx, path, opts)
	if err != nil {
		return err
	}
	defer staged.Abort()
	if _, err := staged.Write(data); err != nil {
		return err
	}
	return staged.Commit()
}

// operations of the contract, with a condition where there is one.
var operations = []struct {
	name string
	do   func(context.Context, origin.Origin) error
}{
	{"open", func(ctx context.Context, o origin.Origin) error {
		_, _, err := o.Open(ctx, path, origin.OpenOptions{Length: 10, IfMatch: "x"})
		return err
	}},
	{"stat", func(ctx context.Context, o origin.Origin) error { _, err := o.Stat(ctx, path); return err }},
	{"delete", func(ctx context.Context, o origin.Origin) error { return o.Delete(ctx, path) }},
	{"list", func(ctx context.Context, o origin.Origin) error {
		for _, err := range o.List(ctx, "") {
			return err
		}
		return nil
	}},
	{"commit", func(ctx context.Context, o origin.Origin) error {
		return put(ctx, o, []byte("x"), origin.CreateOptions{Size: -1, IfAbsent: true})
	}},
	{"commit if-match", func(ctx context.Context, o origin.Origin) error {
		return put(ctx, o, []byte("x"), origin.CreateOptions{Size: -1, IfMatch: "x"})
	}},
	{"create big", func(ctx context.Context, o origin.Origin) error {
		return put(ctx, o, make([]byte, r2.MinPartSize+1), origin.CreateOptions{Size: -1})
	}},
}

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

func wantOneLine(t *testing.T, err error) {
	t.Helper()
	if text := err.Error(); strings.Contains(text, "\n") || strings.Contains(text, secret) {
		t.Errorf("the error is not one line without secrets: %s", text)
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

func TestMaxRequestsHoldsUntilTheBodyIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		config := valid()
		config.MaxRequests = 1
		b := serve(t, config, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "1")
			io.WriteString(w, "x")
		})
		_, body, err := b.Open(t.Context(), path, origin.OpenOptions{})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := b.Stat(ctx, path); kind(err) != "timeout" {
			t.Errorf("Stat beside an open body = %v, want to wait until its context ends", err)
		}
		body.Close()
		if _, err := b.Stat(t.Context(), path); err != nil {
			t.Errorf("Stat after the body was closed = %v", err)
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

func TestRequestsAreWhatR2Takes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		config := valid()
		config.PartSize = r2.MinPartSize
		config.Prefix = "team/cache"
		b := serve(t, config, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/cache/team/cache/"+path {
				t.Errorf("%s %s: want path style with the prefix", r.Method, r.URL.Path)
			}
			if r.Header.Get("Expect") != "" || r.ContentLength < 0 {
				t.Errorf("%s: Expect %q, Content-Length %d", r.Method, r.Header.Get("Expect"), r.ContentLength)
			}
			for name, values := range r.Header {
				name = strings.ToLower(name)
				if strings.Contains(name, "checksum") || strings.Contains(name, "trailer") || strings.Contains(values[0], "STREAMING") {
					t.Errorf("%s has header %s: %s", r.Method, name, values[0])
				}
			}
			if !strings.Contains(r.Header.Get("Authorization"), "/auto/s3/aws4_request") {
				t.Errorf("%s is signed for another region: %s", r.Method, r.Header.Get("Authorization"))
			}
			(&multipart{}).discard(w, r)
		})
		for _, size := range []int{1, 3 << 20} {
			if err := put(t.Context(), b, make([]byte, size), origin.CreateOptions{Size: int64(size)}); err != nil {
				t.Fatal(err)
			}
		}
		_, body, err := b.Open(t.Context(), path, origin.OpenOptions{})
		if err != nil {
			t.Fatal(err)
		}
		body.Close()
	})
}

// discard answers 200 with nothing.
func (*multipart) discard(w http.ResponseWriter, r *http.Request) {
	io.Copy(io.Discard, r.Body)
	w.Header().Set("Content-Length", "0")
}

// TestHTTP1OverTLS: to a server that offers HTTP/2 as well.
func TestHTTP1OverTLS(t *testing.T) {
	protocols := make(chan int, 10)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		protocols <- r.ProtoMajor
		io.Copy(io.Discard, r.Body)
	}))
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()
	config := valid()
	config.AccountID, config.Endpoint = "", server.URL
	trusting := server.Client().Transport.(*http.Transport).TLSClientConfig
	o, err := r2.NewThrough(config, new(net.Dialer).DialContext, trusting)
	if err != nil {
		t.Fatal(err)
	}
	if err := put(t.Context(), o, bytes.Repeat([]byte("x"), 3<<20), origin.CreateOptions{Size: -1}); err != nil {
		t.Fatal(err)
	}
	if major := <-protocols; major != 1 {
		t.Errorf("HTTP/%d, want HTTP/1", major)
	}
}

func TestListPages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		config := valid()
		config.Prefix = "team"
		b := serve(t, config, func(w http.ResponseWriter, r *http.Request) {
			query := r.URL.Query()
			if query.Get("prefix") != "team/nar/" {
				t.Errorf("prefix %q", query.Get("prefix"))
			}
			entry := `<Contents><Key>team/nar/%s</Key><Size>5</Size><ETag>"e"</ETag></Contents>`
			if query.Get("continuation-token") == "" {
				fmt.Fprintf(w, `<ListBucketResult><IsTruncated>true</IsTruncated><NextContinuationToken>n</NextContinuationToken>`+entry+`</ListBucketResult>`, "1")
				return
			}
			fmt.Fprintf(w, `<ListBucketResult><IsTruncated>false</IsTruncated>`+entry+`</ListBucketResult>`, "2")
		})
		var paths []string
		for entry, err := range b.List(t.Context(), "nar/") {
			if err != nil || entry.Size != 5 || entry.ETag != `"e"` {
				t.Fatalf("entry %+v, %v", entry, err)
			}
			paths = append(paths, entry.Path)
		}
		if !slices.Equal(paths, []string{"nar/1", "nar/2"}) {
			t.Errorf("listed %q", paths)
		}
		if got := b.summary(); !slices.Equal(got, []string{"list a ok", "list a ok"}) {
			t.Errorf("operations %q", got)
		}
	})
}
