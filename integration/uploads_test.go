package integration

import (
	"context"
	"encoding/base64"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// stalledUpload begins to upload a NAR and sends no more than a byte of it, until
// the connection is closed.
func (c *cache) stalledUpload(tb testing.TB, path, token string) net.Conn {
	tb.Helper()
	conn, err := net.DialTimeout("tcp", strings.TrimPrefix(c.base, "http://"), patience)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { conn.Close() })
	credential := base64.StdEncoding.EncodeToString([]byte("x:" + token))
	fmt.Fprintf(conn, "PUT %s HTTP/1.1\r\nHost: localhost\r\nAuthorization: Basic %s\r\nContent-Length: 1000000\r\n\r\nx", path, credential)
	return conn
}

// TestUploadsAreBounded: a token that begins upload after upload is told that there
// are too many, and keeps no other token's from the cache.
func TestUploadsAreBounded(t *testing.T) {
	t.Parallel()
	const otherToken = "other-secret"
	c := startCache(t, dirOrigin(t), "token other "+otherToken+" upload")
	greedy, other := signedPackage("greedy", 1_000_000), signedPackage("other", 100_000)
	const most = 144 + 768 // under way and waiting
	var conns []net.Conn
	for range most {
		conns = append(conns, c.stalledUpload(t, narPath(greedy), uploadToken))
	}
	busy := func() answer {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		a, _ := c.try(t, "PUT", narPath(other), other.File, basic(uploadToken), func(r *http.Request) { *r = *r.WithContext(ctx) })
		return a
	}
	eventually(t, "an upload too many", func() error {
		if a := busy(); a.Status != http.StatusServiceUnavailable {
			return fmt.Errorf("status %d", a.Status)
		}
		return nil
	})
	a := c.put(t, narPath(other), other.File)
	a.wantRefusal(t, http.StatusServiceUnavailable, "too many uploads")
	a.wantHeader(t, "Retry-After", "5")
	c.put(t, narinfoPath(other), other.Text()).wantRefusal(t, http.StatusConflict, "")

	c.put(t, narPath(other), other.File, basic(otherToken)).wantStatus(t, http.StatusCreated)
	c.put(t, narinfoPath(other), other.Text(), basic(otherToken)).wantStatus(t, http.StatusCreated)

	for _, conn := range conns {
		conn.Close()
	}
	eventually(t, "an upload after the others", func() error {
		if a := busy(); a.Status != http.StatusOK {
			return fmt.Errorf("status %d", a.Status)
		}
		return nil
	})
}
