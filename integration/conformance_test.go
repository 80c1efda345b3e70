package integration

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/stevedores-org/nix-cache/caddymodule/origin"
	"github.com/stevedores-org/nix-cache/caddymodule/origin/origintest"
	"github.com/stevedores-org/nix-cache/caddymodule/origin/r2"
	"github.com/stevedores-org/nix-cache/integration/strictr2"
)

const bucket = "nix-cache"

// bench is an S3 server as strict as R2, with an empty bucket.
type bench struct {
	proxy  *strictr2.Proxy
	config r2.Config
}

func newBench(t *testing.T) *bench {
	t.Helper()
	endpoint, access, secret := startVersityGW(t)
	makeBucket(t, endpoint, access, secret)
	proxy, err := strictr2.New(endpoint, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	front := httptest.NewServer(proxy)
	t.Cleanup(front.Close)
	t.Cleanup(func() {
		for _, line := range proxy.Refused() {
			t.Errorf("R2 would refuse %s", line)
		}
	})
	return &bench{proxy: proxy, config: r2.Config{
		Bucket:          bucket,
		Endpoint:        front.URL,
		AccessKeyID:     access,
		SecretAccessKey: secret,
		PartSize:        r2.MinPartSize,
	}}
}

func makeBucket(t *testing.T, endpoint, access, secret string) {
	t.Helper()
	client := s3.New(s3.Options{
		BaseEndpoint: aws.String(endpoint),
		UsePathStyle: true,
		Region:       "auto",
		Credentials:  credentials.NewStaticCredentialsProvider(access, secret, ""),
	})
	if _, err := client.CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: aws.String(bucket)}); err != nil {
		t.Fatalf("create bucket: %v", err)
	}
}

func (b *bench) origin(t *testing.T, prefix string) *r2.Origin {
	t.Helper()
	config := b.config
	config.Prefix = prefix
	o, err := r2.New(config)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func TestR2Conforms(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	var prefixes atomic.Int64
	origintest.Run(t, func(t *testing.T) origin.Origin {
		return b.origin(t, fmt.Sprintf("test-%d", prefixes.Add(1)))
	})
}

func put(ctx context.Context, o origin.Origin, path, text string, opts origin.CreateOptions) error {
	staged, err := o.Create(ctx, path, opts)
	if err != nil {
		return err
	}
	defer staged.Abort()
	if _, err := io.WriteString(staged, text); err != nil {
		return err
	}
	return staged.Commit()
}

// TestR2LostAnswer: a conditional write that took effect although its answer
// was lost is reported as done, not as somebody else's.
func TestR2LostAnswer(t *testing.T) {
	b := newBench(t)
	o := b.origin(t, "")
	b.proxy.Lose("put", 1)
	err := put(t.Context(), o, "a.narinfo", "text", origin.CreateOptions{Size: -1, IfAbsent: true})
	if err != nil {
		t.Errorf("Commit whose first answer was lost = %v, though it took effect", err)
	}
	err = put(t.Context(), o, "a.narinfo", "text", origin.CreateOptions{Size: -1, IfAbsent: true})
	if !errors.Is(err, fs.ErrExist) {
		t.Errorf("the same again = %v, want fs.ErrExist", err)
	}
}

// TestR2RidesOutBursts: a few 5xx in a row don't reach the caller.
func TestR2RidesOutBursts(t *testing.T) {
	b := newBench(t)
	o := b.origin(t, "")
	b.proxy.Fail("put", 2, 503, "ServiceUnavailable")
	b.proxy.Fail("get", 2, 500, "InternalError")
	if err := put(t.Context(), o, "a.narinfo", "text", origin.CreateOptions{Size: 4}); err != nil {
		t.Fatal(err)
	}
	if info, err := o.Stat(t.Context(), "a.narinfo"); err != nil || info.Size != 4 {
		t.Errorf("Stat = %+v, %v", info, err)
	}
	if puts, gets := b.proxy.Requests("put"), b.proxy.Requests("get"); puts != 3 || gets != 3 {
		t.Errorf("%d puts and %d gets, want 3 and 3", puts, gets)
	}
}

func TestR2MissingBucketAndBadKey(t *testing.T) {
	b := newBench(t)
	config := b.config
	config.Bucket = "missing"
	config.AccessKeyID = b.config.AccessKeyID
	missing, err := r2.New(config)
	if err != nil {
		t.Fatal(err)
	}
	config = b.config
	config.SecretAccessKey = "not-the-secret"
	refused, err := r2.New(config)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		origin *r2.Origin
		want   string
	}{{missing, "bucket missing at"}, {refused, "refused the credentials"}} {
		_, err := tt.origin.Stat(t.Context(), "a.narinfo")
		_, unavailable := errors.AsType[*origin.UnavailableError](err)
		if err == nil || errors.Is(err, fs.ErrNotExist) || unavailable || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("Stat = %v, want an error that says %q", err, tt.want)
		}
		if err != nil && strings.Contains(err.Error(), config.SecretAccessKey) {
			t.Errorf("the error holds the secret: %v", err)
		}
	}
}

// TestR2GiB: an object of 1 GiB goes up and down in little memory.
func TestR2GiB(t *testing.T) {
	const size, limit = 1 << 30, 100 << 20
	b := newBench(t)
	b.config.PartSize = r2.DefaultPartSize
	o := b.origin(t, "")

	runtime.GC()
	peak := watchHeap(t)
	sent := sha256.New()
	staged, err := o.Create(t.Context(), "nar/big.nar", origin.CreateOptions{Size: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer staged.Abort()
	if err := generate(io.MultiWriter(staged, sent), size); err != nil {
		t.Fatal(err)
	}
	if err := staged.Commit(); err != nil {
		t.Fatal(err)
	}
	t.Logf("up: heap grew by %d MiB", peak()>>20)

	received := download(t, o, "nar/big.nar", size)
	if string(received.Sum(nil)) != string(sent.Sum(nil)) {
		t.Error("what came down is not what went up")
	}
	grown := peak()
	t.Logf("up and down: heap grew by %d MiB", grown>>20)
	if grown > limit {
		t.Errorf("the heap grew by %d MiB, want less than %d", grown>>20, limit>>20)
	}
}

// generate writes n bytes that are the same each time.
func generate(w io.Writer, n int64) error {
	_, err := io.CopyN(w, rand.NewChaCha8([32]byte{1}), n)
	return err
}

func download(t *testing.T, o origin.Origin, path string, size int64) hash.Hash {
	t.Helper()
	info, body, err := o.Open(t.Context(), path, origin.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	if info.Size != size {
		t.Errorf("%d bytes, want %d", info.Size, size)
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, body); err != nil {
		t.Fatal(err)
	}
	return sum
}

// watchHeap follows the heap until the test ends. It returns a function that
// tells by how many bytes it has grown at most.
func watchHeap(t *testing.T) (peak func() int64) {
	t.Helper()
	begin := heapInUse()
	var most atomic.Int64
	tick := time.NewTicker(20 * time.Millisecond)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-tick.C:
				most.Store(max(most.Load(), heapInUse()-begin))
			case <-stop:
				return
			}
		}
	}()
	t.Cleanup(func() {
		tick.Stop()
		close(stop)
		<-stopped
	})
	return most.Load
}

func heapInUse() int64 {
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return int64(stats.HeapInuse)
}
