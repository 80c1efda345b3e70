package integration

import (
	"crypto/sha256"
	"io"
	"net/http"
	"testing"

	"github.com/stevedores-org/nix-cache/caddymodule/nix"
	"github.com/stevedores-org/nix-cache/caddymodule/nix/nixtest"
)

const (
	largeSize    = 1 << 30
	largeMemory  = 200 << 20 // beyond what Caddy holds after its start
	largeRepeats = 2         // downloads
)

// TestLargeNAR: a NAR of 1 GiB goes up and comes down, and memory does not grow
// with it.
func TestLargeNAR(t *testing.T) {
	large := nixtest.NewStream("large", largeSize)
	large.NARInfo.Signatures = []nix.Signature{testKey.Sign(large.NARInfo)}
	forEachOrigin(t, func(t *testing.T, o *testOrigin) {
		c := startFastCache(t, o)
		c.get(t, "/nix-cache-info").wantStatus(t, http.StatusOK)
		before := c.residentNow(t)
		c.resetResidentPeak(t)

		c.put(t, "/"+large.NARInfo.URL(), nil, streamed(large)).wantStatus(t, http.StatusCreated)
		t.Logf("upload: %d MiB beyond the start", (c.residentPeak(t)-before)>>20)
		text, err := large.NARInfo.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		c.put(t, "/"+large.NARInfo.StorePath.Hash()+".narinfo", text).wantStatus(t, http.StatusCreated)
		if o.bucket != nil {
			o.bucket.take()
		}
		for range largeRepeats {
			downloadLarge(t, c, large)
		}
		if o.bucket != nil {
			o.bucket.wantRequests(t, large.NARInfo.URL()) // none: it has been on disk since its upload
		}
		if grown := c.residentPeak(t) - before; grown > largeMemory {
			t.Errorf("Caddy grew by %d MiB, more than %d", grown>>20, largeMemory>>20)
		} else {
			t.Logf("in all: %d MiB beyond the start", grown>>20)
		}
	})
}

func streamed(s nixtest.Stream) requestOption {
	return func(r *http.Request) {
		r.Body, r.ContentLength = io.NopCloser(s.Reader()), s.NARInfo.NARSize
		r.GetBody = nil
	}
}

func downloadLarge(t *testing.T, c *cache, s nixtest.Stream) {
	t.Helper()
	resp, err := c.http.Get(c.base + "/" + s.NARInfo.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	hash := sha256.New()
	n, err := io.Copy(hash, resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK || n != s.NARInfo.NARSize {
		t.Fatalf("download: status %d, %d bytes, %v", resp.StatusCode, n, err)
	}
	if nix.SHA256(hash.Sum(nil)) != s.NARInfo.FileHash {
		t.Error("the NAR came down changed")
	}
}
