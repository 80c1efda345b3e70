package integration

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/stevedores-org/nix-cache/integration/strictr2"
)

// testOrigin is the place behind a cache under test.
type testOrigin struct {
	caddyfile string // the subdirective that selects it
	dir       string // "" if it is a bucket
	bucket    *r2Bucket
}

// forEachOrigin runs a test over a directory and over R2's code.
func forEachOrigin(t *testing.T, test func(t *testing.T, o *testOrigin)) {
	t.Run("origin=dir", func(t *testing.T) { test(t, dirOrigin(t)) })
	t.Run("origin=r2", func(t *testing.T) { test(t, r2Origin(t)) })
}

func dirOrigin(tb testing.TB) *testOrigin {
	tb.Helper()
	dir := tempDir(tb)
	return &testOrigin{caddyfile: "origin dir " + dir, dir: dir}
}

func r2Origin(tb testing.TB) *testOrigin {
	tb.Helper()
	b := startBucket(tb)
	return &testOrigin{bucket: b, caddyfile: fmt.Sprintf(`origin r2 {
		bucket %s
		endpoint %s
		access_key_id %s
		secret_access_key %s
	}`, bucketName, b.endpoint, b.accessKey, b.secretKey)}
}

// put lays an object down at the origin behind the cache's back.
func (o *testOrigin) put(tb testing.TB, path string, body []byte) {
	tb.Helper()
	if o.bucket != nil {
		o.bucket.put(tb, path, body)
		return
	}
	file := filepath.Join(o.dir, path)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		tb.Fatal(err)
	}
	writeFile(tb, file, string(body))
}

const bucketName = "nix-cache-test"

// r2Bucket is a bucket of a real S3 server, as strict as R2. It remembers its
// requests and fails on demand.
type r2Bucket struct {
	endpoint, accessKey, secretKey string

	dir    string     // of the server's files
	direct *s3.Client // past the memory, the faults and the strictness
	next   http.Handler
	mu     struct {
		sync.Mutex
		requests []bucketRequest
		probes   int // requests whether the bucket answers; they come by themselves, too
		fault    bucketFault
	}
}

type bucketRequest struct {
	Method string
	Path   string // of the object: "nar/….nar"
	Range  string
}

// bucketFault answers a request in the bucket's place or passes it on.
type bucketFault func(w http.ResponseWriter, r *http.Request, next http.Handler)

func startBucket(tb testing.TB) *r2Bucket {
	tb.Helper()
	dir := tb.TempDir()
	gateway, accessKey, secretKey := startVersityGWOn(tb, dir)
	strict, err := strictr2.New(gateway, time.Now)
	if err != nil {
		tb.Fatal(err)
	}
	b := &r2Bucket{dir: dir, accessKey: accessKey, secretKey: secretKey, next: strict}
	b.direct = s3.New(s3.Options{
		BaseEndpoint: &gateway,
		Region:       "auto",
		UsePathStyle: true,
		Credentials:  credentials.NewStaticCredentialsProvider(accessKey, secretKey, ""),
	})
	if _, err := b.direct.CreateBucket(tb.Context(), &s3.CreateBucketInput{Bucket: aws.String(bucketName)}); err != nil {
		tb.Fatal(err)
	}
	server := httptest.NewServer(b)
	tb.Cleanup(func() {
		server.Close()
		for _, refused := range strict.Refused() {
			tb.Errorf("R2 would refuse %s", refused)
		}
	})
	b.endpoint = server.URL
	return b
}

func (b *r2Bucket) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strictr2.OperationOf(r) == "list-multipart" { // comes by itself, at any time after a start
		b.next.ServeHTTP(w, r)
		return
	}
	path := strings.TrimPrefix(r.URL.Path, "/"+bucketName+"/")
	b.mu.Lock()
	if path == "nix-cache-info" {
		b.mu.probes++
	} else {
		b.mu.requests = append(b.mu.requests, bucketRequest{r.Method, path, r.Header.Get("Range")})
	}
	fault := b.mu.fault
	b.mu.Unlock()
	if fault != nil {
		fault(w, r, b.next)
		return
	}
	b.next.ServeHTTP(w, r)
}

func (b *r2Bucket) put(tb testing.TB, path string, body []byte) {
	tb.Helper()
	_, err := b.direct.PutObject(tb.Context(), &s3.PutObjectInput{
		Bucket: aws.String(bucketName), Key: &path, Body: bytes.NewReader(body),
	})
	if err != nil {
		tb.Fatal(err)
	}
}

// setFault makes the bucket fail from now on; nil ends that.
func (b *r2Bucket) setFault(fault bucketFault) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.mu.fault = fault
}

// take returns the requests since the last take.
func (b *r2Bucket) take() []bucketRequest {
	b.mu.Lock()
	defer b.mu.Unlock()
	taken := b.mu.requests
	b.mu.requests = nil
	return taken
}

// takeProbes returns how many requests since the last takeProbes asked whether the
// bucket answers.
func (b *r2Bucket) takeProbes() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	taken := b.mu.probes
	b.mu.probes = 0
	return taken
}

// wantRequests compares the methods of the requests for a path since the last
// take.
func (b *r2Bucket) wantRequests(tb testing.TB, path string, methods ...string) {
	tb.Helper()
	var got []string
	for _, r := range b.take() {
		if r.Path == path {
			got = append(got, r.Method)
		}
	}
	if !slices.Equal(got, methods) {
		tb.Errorf("requests to the bucket for %s: %q, want %q", path, got, methods)
	}
}

// refuse breaks every connection.
func refuse(http.ResponseWriter, *http.Request, http.Handler) { panic(http.ErrAbortHandler) }

// stall never answers.
func stall(_ http.ResponseWriter, r *http.Request, _ http.Handler) { <-r.Context().Done() }

// breakOff lets so many bytes of bodies through, and breaks every connection
// from then on.
func breakOff(limit int64) bucketFault {
	left := new(atomic.Int64)
	left.Store(limit)
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		next.ServeHTTP(&limitedWriter{w, left}, r)
	}
}

type limitedWriter struct {
	http.ResponseWriter
	left *atomic.Int64
}

func (w *limitedWriter) Write(p []byte) (int, error) {
	if left := w.left.Add(-int64(len(p))); left < 0 {
		http.NewResponseController(w.ResponseWriter).Flush()
		panic(http.ErrAbortHandler)
	}
	return w.ResponseWriter.Write(p)
}

func (w *limitedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
