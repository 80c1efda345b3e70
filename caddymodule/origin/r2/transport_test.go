package r2_test

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stevedores-org/nix-cache/caddymodule/origin"
	"github.com/stevedores-org/nix-cache/caddymodule/origin/r2"
)

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
