package strictr2_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stevedores-org/nix-cache/integration/strictr2"
)

// bench is a Proxy before a server that takes everything, and a clock.
type bench struct {
	*strictr2.Proxy
	url   string
	clock time.Time
	taken int // requests that reached the server
	host  string
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{clock: time.Unix(1_000_000, 0)}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		b.taken++
		b.host = r.Host
	}))
	t.Cleanup(server.Close)
	proxy, err := strictr2.New(server.URL, func() time.Time { return b.clock })
	if err != nil {
		t.Fatal(err)
	}
	b.Proxy = proxy
	front := httptest.NewServer(proxy)
	t.Cleanup(front.Close)
	b.url = front.URL
	return b
}

// do sends a request with headers given as name and value in turn, and returns
// status and body.
func (b *bench) do(t *testing.T, method, target string, body io.Reader, headers ...string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, b.url+target, body)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

func TestRefusesWhatR2DoesNotTake(t *testing.T) {
	for _, tt := range []struct {
		name    string
		headers []string
		length  bool
		status  int
		code    string
	}{
		{"plain", nil, true, 200, ""},
		{"checksum", []string{"x-amz-checksum-crc32", "AAAAAA=="}, true, 501, "NotImplemented"},
		{"checksum algorithm", []string{"x-amz-sdk-checksum-algorithm", "CRC32"}, true, 501, "NotImplemented"},
		{"trailer", []string{"x-amz-trailer", "x-amz-checksum-crc32"}, true, 501, "NotImplemented"},
		{"streaming", []string{"x-amz-content-sha256", "STREAMING-UNSIGNED-PAYLOAD-TRAILER"}, true, 501, "NotImplemented"},
		{"continue", []string{"Expect", "100-continue"}, true, 501, "NotImplemented"},
		{"unknown length", nil, false, 411, "MissingContentLength"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t)
			var body io.Reader = strings.NewReader("data")
			if !tt.length {
				body = io.MultiReader(body) // http doesn't know this type's length
			}
			status, text := b.do(t, http.MethodPut, "/bucket/key", body, tt.headers...)
			if status != tt.status || !strings.Contains(text, "<Code>"+tt.code+"</Code>") && tt.code != "" {
				t.Errorf("%d %s, want %d %s", status, text, tt.status, tt.code)
			}
			if refused := len(b.Refused()); (refused == 0) != (tt.status == 200) || b.taken+refused != 1 {
				t.Errorf("%d refused, %d taken", refused, b.taken)
			}
		})
	}
}

func TestHostIsKept(t *testing.T) {
	b := newBench(t)
	b.do(t, http.MethodGet, "/bucket/key", nil)
	if want := strings.TrimPrefix(b.url, "http://"); b.host != want {
		t.Errorf("the server saw host %s, want %s", b.host, want)
	}
}

func TestOneWritePerSecond(t *testing.T) {
	b := newBench(t)
	for _, tt := range []struct {
		after  time.Duration
		key    string
		status int
	}{
		{0, "a", 200},
		{999 * time.Millisecond, "a", 429},
		{0, "b", 200},
		{time.Millisecond, "a", 200},
		{0, "a", 429},
	} {
		b.clock = b.clock.Add(tt.after)
		if status, text := b.do(t, http.MethodPut, "/bucket/"+tt.key, strings.NewReader("x")); status != tt.status {
			t.Errorf("write to %s at %v: %d %s, want %d", tt.key, b.clock, status, text, tt.status)
		}
	}
	if n := b.Requests("put"); n != 5 {
		t.Errorf("%d puts counted, want 5", n)
	}
}

func TestPartsAreEqual(t *testing.T) {
	const mib = 1 << 20
	for _, tt := range []struct {
		name   string
		sizes  []int
		status int
		code   string
	}{
		{"equal", []int{5 * mib, 5 * mib, 1}, 200, ""},
		{"one small part", []int{1}, 200, ""},
		{"unequal", []int{5 * mib, 6 * mib, 1}, 400, "InvalidPart"},
		{"too small", []int{1 * mib, 1 * mib, 1}, 400, "EntityTooSmall"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t)
			var list strings.Builder
			for i, size := range tt.sizes {
				target := fmt.Sprintf("/bucket/key?uploadId=u&partNumber=%d", i+1)
				if status, text := b.do(t, http.MethodPut, target, strings.NewReader(strings.Repeat("x", size))); status != 200 {
					t.Fatalf("part %d: %d %s", i+1, status, text)
				}
				fmt.Fprintf(&list, "<Part><PartNumber>%d</PartNumber><ETag>e</ETag></Part>", i+1)
			}
			body := "<CompleteMultipartUpload>" + list.String() + "</CompleteMultipartUpload>"
			status, text := b.do(t, http.MethodPost, "/bucket/key?uploadId=u", strings.NewReader(body))
			if status != tt.status || !strings.Contains(text, tt.code) {
				t.Errorf("complete: %d %s, want %d %s", status, text, tt.status, tt.code)
			}
		})
	}
}

func TestFaults(t *testing.T) {
	b := newBench(t)
	b.Fail("get", 2, 503, "ServiceUnavailable")
	for i, want := range []int{503, 503, 200} {
		if status, text := b.do(t, http.MethodGet, "/bucket/key", nil); status != want {
			t.Errorf("get %d: %d %s, want %d", i, status, text, want)
		}
	}
	if b.taken != 1 {
		t.Errorf("%d requests reached the server, want 1", b.taken)
	}
	b.Lose("put", 1)
	if status, text := b.do(t, http.MethodPut, "/bucket/key", strings.NewReader("x")); status != 0 {
		t.Errorf("the lost answer arrived: %d %s", status, text)
	}
	if b.taken != 2 {
		t.Errorf("%d requests reached the server, want 2: the lost one takes effect", b.taken)
	}
}
