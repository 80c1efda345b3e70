package integration

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/stevedores-org/nix-cache/caddymodule/nix"
	"github.com/stevedores-org/nix-cache/caddymodule/nix/nixtest"
	"github.com/stevedores-org/nix-cache/integration/strictr2"
)

// isOperation matches requests by what they do, as strictr2 names it.
func isOperation(names ...string) func(*http.Request) bool {
	return func(r *http.Request) bool { return slices.Contains(names, strictr2.OperationOf(r)) }
}

// resetAt breaks a connection when so many bytes of a request have come.
func resetAt(n int64) bucketFault {
	return func(_ http.ResponseWriter, r *http.Request, _ http.Handler) {
		io.CopyN(io.Discard, r.Body, n)
		panic(http.ErrAbortHandler)
	}
}

// stallAfter reads so many bytes of a request and then nothing until the test
// ends: a server that doesn't read is not told that its client has gone.
func stallAfter(tb testing.TB, n int64) bucketFault {
	return func(_ http.ResponseWriter, r *http.Request, _ http.Handler) {
		io.CopyN(io.Discard, r.Body, n)
		<-tb.Context().Done()
		panic(http.ErrAbortHandler)
	}
}

// loseAnswer lets a request take effect and breaks the connection then.
func loseAnswer(_ http.ResponseWriter, r *http.Request, next http.Handler) {
	next.ServeHTTP(&noAnswer{make(http.Header)}, r)
	panic(http.ErrAbortHandler)
}

type noAnswer struct{ header http.Header }

func (n *noAnswer) Header() http.Header         { return n.header }
func (n *noAnswer) Write(p []byte) (int, error) { return len(p), nil }
func (n *noAnswer) WriteHeader(int)             {}

// uploadFaults are what one request of an upload may meet.
var uploadFaults = []struct {
	name  string
	fault bucketFault
}{
	{"429", s3Error(http.StatusTooManyRequests, "TooManyRequests")},
	{"500", s3Error(http.StatusInternalServerError, "InternalError")},
	{"503", s3Error(http.StatusServiceUnavailable, "SlowDown")},
	{"reset", resetAt(0)},
	{"reset in its middle", resetAt(100_000)},
}

// TestUploadRidesOut: a request of an upload that fails is repeated, and the
// client notices nothing.
func TestUploadRidesOut(t *testing.T) {
	t.Parallel()
	for _, operation := range []string{"create-multipart", "upload-part", "complete", "put"} {
		t.Run(operation, func(t *testing.T) {
			t.Parallel()
			o := smallParts(t)
			c := startCache(t, o)
			size := 12_000_000
			if operation == "put" {
				size = 400_000
			}
			for i, tt := range uploadFaults {
				p := signedPackage(fmt.Sprint("rides-out-", i), size)
				o.bucket.setFault(first(2, isOperation(operation), tt.fault))
				c.upload(t, p)
			}
			stalled := signedPackage("rides-out-stalled", size)
			o.bucket.setFault(first(1, isOperation(operation), stallAfter(t, 100_000)))
			c.upload(t, stalled)
			o.bucket.setFault(nil)
			o.wantWhole(t, make(map[string]bool))
			o.bucket.wantNoUploads(t)
		})
	}
}

// TestUploadGivesUp: one that fails each time ends with an answer that says
// whose fault it is; nothing is visible then, and nothing is left.
func TestUploadGivesUp(t *testing.T) {
	t.Parallel()
	for _, operation := range []string{"create-multipart", "upload-part", "complete"} {
		t.Run(operation, func(t *testing.T) {
			t.Parallel()
			o := smallParts(t)
			c := startCache(t, o)
			for i, tt := range uploadFaults {
				p := signedPackage(fmt.Sprint("gives-up-", i), 12_000_000)
				o.bucket.setFault(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
					if isOperation(operation)(r) {
						tt.fault(w, r, next)
						return
					}
					next.ServeHTTP(w, r)
				})
				// Whether the answer or the break comes first is up to the network.
				if a, err := c.try(t, "PUT", narPath(p), p.File, basic(uploadToken)); err == nil {
					a.wantRefusal(t, http.StatusBadGateway, "can't reach its storage")
				}
				o.bucket.setFault(nil)
				c.get(t, narPath(p)).wantStatus(t, http.StatusNotFound)
				o.bucket.wantNoUploads(t)
				c.upload(t, p)
			}
		})
	}
}

// TestLostAnswersToWrites: what took effect is acknowledged, though the origin's
// answer never came.
func TestLostAnswersToWrites(t *testing.T) {
	t.Parallel()
	o := smallParts(t)
	c := startCache(t, o)
	for i, operation := range []string{"create-multipart", "upload-part", "complete", "put"} {
		p := signedPackage(fmt.Sprint("lost-answer-", i), 12_000_000)
		o.bucket.setFault(first(1, isOperation(operation), loseAnswer))
		c.upload(t, p)
		o.bucket.setFault(nil)
		c.get(t, narPath(p)).wantBody(t, p.File)
		c.get(t, narinfoPath(p)).wantBody(t, p.Text())
	}
	o.wantWhole(t, make(map[string]bool))
}

// uploads returns the keys of the multipart uploads that are under way.
func (b *r2Bucket) uploads(tb testing.TB) (keys []string) {
	tb.Helper()
	out, err := b.direct.ListMultipartUploads(tb.Context(), &s3.ListMultipartUploadsInput{Bucket: aws.String(bucketName)})
	if err != nil {
		tb.Fatal(err)
	}
	for _, u := range out.Uploads {
		keys = append(keys, *u.Key)
	}
	return keys
}

func (b *r2Bucket) wantNoUploads(tb testing.TB) {
	tb.Helper()
	for _, key := range b.uploads(tb) {
		tb.Errorf("left behind: a multipart upload of %s", key)
	}
}

const (
	crowdSize   = 30
	crowdNAR    = 100_000_000
	crowdMemory = 200 << 20 // beyond what Caddy holds after its start
)

// TestCrowdOfUploads: many upload at once, half of them never getting further
// than most of their NAR. The others finish meanwhile, and memory is bounded.
func TestCrowdOfUploads(t *testing.T) {
	o := r2Origin(t)
	c := startFastCache(t, o)
	c.get(t, "/nix-cache-info").wantStatus(t, http.StatusOK)
	before := c.residentNow(t)
	c.resetResidentPeak(t)

	goOn := make(chan struct{})
	var stuck, clients sync.WaitGroup
	var fast atomic.Int64
	begun := time.Now()
	for i := range crowdSize {
		s := nixtest.NewStream(fmt.Sprint("crowd-", i), crowdNAR)
		body := s.Reader()
		if i%2 == 0 {
			stuck.Add(1)
			body = &haltingReader{r: body, at: crowdNAR * 9 / 10, halted: stuck.Done, goOn: goOn}
		}
		clients.Go(func() {
			a := c.do(t, "PUT", "/"+s.NARInfo.URL(), nil, basic(uploadToken), func(r *http.Request) {
				r.Body, r.ContentLength, r.GetBody = io.NopCloser(body), s.NARInfo.NARSize, nil
			})
			a.wantStatus(t, http.StatusCreated)
			if i%2 == 1 && fast.Add(1) == crowdSize/2 {
				t.Logf("the fast ones were done after %v", time.Since(begun))
				stuck.Wait()
				close(goOn)
			}
		})
	}
	clients.Wait()
	grown := c.residentPeak(t) - before
	t.Logf("%d uploads of %d MB: %d MiB beyond the start", crowdSize, crowdNAR/1_000_000, grown>>20)
	if grown > crowdMemory {
		t.Errorf("Caddy grew by %d MiB, more than %d", grown>>20, crowdMemory>>20)
	}
	for _, path := range o.paths(t) {
		if _, err := nix.ParseCachePath(path); err != nil {
			t.Error(err)
		}
	}
	o.bucket.wantNoUploads(t)
	wantNoFiles(t, c.tierDir()+"/spool")
}

// haltingReader stops at a place until it may go on.
type haltingReader struct {
	r      io.Reader
	at     int64
	halted func()
	goOn   <-chan struct{}
}

func (h *haltingReader) Read(p []byte) (int, error) {
	if h.at == 0 {
		h.halted()
		<-h.goOn
		h.at = -1
	}
	if h.at > 0 {
		p = p[:min(int64(len(p)), h.at)]
	}
	n, err := h.r.Read(p)
	h.at -= int64(n)
	return n, err
}
