package caddymodule

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/stevedores-org/nix-cache/caddymodule/auth"
)

// privateHandler is a hotHandler that lets the token "reader" read, and "pusher"
// upload. Their secrets are their names.
func privateHandler(t *testing.T) *Handler {
	t.Helper()
	h := hotHandler(t)
	h.Private = true
	h.narinfoControl = narinfoControl(h.scope(), time.Hour)
	h.log = slog.New(slog.DiscardHandler)
	h.serving, h.throttle = t.Context(), new(auth.Throttle)
	tokens := new(auth.Tokens)
	for name, rights := range map[string]auth.Rights{"reader": auth.Read, "pusher": auth.Upload} {
		secret, err := auth.ParseSecret(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := tokens.Add(auth.Token{Name: name, Rights: rights}, secret); err != nil {
			t.Fatal(err)
		}
	}
	h.set.authorities = auth.Authorities{tokens}
	return h
}

const absentNARInfo = "/36xbg1ndr7hbcncrlf9nhx5is2b25d13.narinfo"

// TestPrivate: strangers get the same answer whether a file is there, was found
// absent, or was never asked for; and for all ways to ask.
func TestPrivate(t *testing.T) {
	h := privateHandler(t)
	tag := ask(t, h, "reader", "HEAD", hotNARInfo).Header().Get("Etag")
	for _, request := range []struct {
		method, path string
		header       []string
		want         int // for who may read
	}{
		{"GET", hotNARInfo, nil, http.StatusOK},
		{"HEAD", hotNARInfo, nil, http.StatusOK},
		{"GET", hotNARInfo, []string{"If-None-Match", tag}, http.StatusNotModified},
		{"GET", hotNARInfo, []string{"Range", "bytes=10-"}, http.StatusPartialContent},
		{"GET", hotNARInfo, []string{"Range", "bytes=999999-"}, http.StatusRequestedRangeNotSatisfiable},
		{"GET", absentNARInfo, nil, http.StatusNotFound},
		{"GET", absentNARInfo, nil, http.StatusNotFound}, // known by now to be absent
		{"HEAD", absentNARInfo, nil, http.StatusNotFound},
	} {
		for secret, want := range map[string]int{
			"": http.StatusUnauthorized, "wrong": http.StatusForbidden, "pusher": http.StatusForbidden, "reader": request.want,
		} {
			w := ask(t, h, secret, request.method, request.path, request.header...)
			if w.Code != want {
				t.Errorf("%q: %s %s %s: status %d, want %d", secret, request.method, request.path, request.header, w.Code, want)
			}
			wantPrivateHeaders(t, w)
		}
	}
}

// ask sends a request with a secret, if it is not empty, and headers.
func ask(t *testing.T, h *Handler, secret, method, path string, header ...string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), method, path, nil)
	for pair := range slices.Chunk(header, 2) {
		r.Header.Set(pair[0], pair[1])
	}
	if secret != "" {
		r.SetBasicAuth("any", secret)
	}
	w := httptest.NewRecorder()
	serveRecorded(t, h, w, r)
	return w
}

func serveRecorded(t *testing.T, h *Handler, w *httptest.ResponseRecorder, r *http.Request) {
	t.Helper()
	if err := h.ServeHTTP(w, r, nil); err != nil {
		t.Fatal(err)
	}
}

func wantPrivateHeaders(t *testing.T, w *httptest.ResponseRecorder) {
	t.Helper()
	header := w.Header()
	control := header.Get("Cache-Control")
	switch w.Code {
	case http.StatusOK, http.StatusPartialContent, http.StatusNotModified:
		if control != "private, max-age=3600, immutable" {
			t.Errorf("status %d: Cache-Control is %q", w.Code, control)
		}
	case http.StatusUnauthorized, http.StatusForbidden:
		if control != "no-store" || header.Get("Cache-Status") != "" || header.Get("Etag") != "" {
			t.Errorf("status %d tells %v", w.Code, header)
		}
		if challenged := len(header.Values("WWW-Authenticate")) == 2; challenged != (w.Code == http.StatusUnauthorized) {
			t.Errorf("status %d: WWW-Authenticate is %q", w.Code, header.Values("WWW-Authenticate"))
		}
	}
}

// TestOpenPathsOfAPrivateCache: they tell nothing of what is in it.
func TestOpenPathsOfAPrivateCache(t *testing.T) {
	h := privateHandler(t)
	for path, want := range map[string]int{
		"/": http.StatusOK, "/nix-cache-info": http.StatusOK, "/health": http.StatusOK, "/other": http.StatusNotFound,
	} {
		if w := ask(t, h, "", "GET", path); w.Code != want {
			t.Errorf("%s: status %d, want %d", path, w.Code, want)
		}
	}
}

func TestAccessLogNamesTheToken(t *testing.T) {
	h := privateHandler(t)
	for secret, want := range map[string]string{"reader": "reader", "pusher": "pusher", "wrong": "", "": ""} {
		repl := caddy.NewReplacer()
		ctx := context.WithValue(t.Context(), caddy.ReplacerCtxKey, repl)
		r := httptest.NewRequestWithContext(ctx, "GET", hotNARInfo, nil)
		r.Header.Set("Authorization", "Bearer "+secret)
		serveRecorded(t, h, httptest.NewRecorder(), r)
		if got, _ := repl.GetString("http.auth.user.id"); got != want {
			t.Errorf("secret %q: the user is %q, want %q", secret, got, want)
		}
	}
}

// from gives a request the client address that Caddy has found for it.
func from(r *http.Request, address string) *http.Request {
	vars := map[string]any{caddyhttp.ClientIPVarKey: address}
	return r.WithContext(context.WithValue(r.Context(), caddyhttp.VarsCtxKey, vars))
}

func TestClientAddr(t *testing.T) {
	r := httptest.NewRequestWithContext(t.Context(), "GET", "/", nil)
	r.RemoteAddr = "192.0.2.9:1234"
	for _, test := range []struct {
		request *http.Request
		want    netip.Addr
	}{
		{r, netip.MustParseAddr("192.0.2.9")},
		{from(r, "2001:db8::1"), netip.MustParseAddr("2001:db8::1")},
		{from(r, ""), netip.Addr{}},
		{from(r, "@"), netip.Addr{}},
	} {
		if got := clientAddr(test.request); got != test.want {
			t.Errorf("clientAddr = %v, want %v", got, test.want)
		}
	}
}

// presents has an address present a secret, and returns the status and how long
// the answer took.
func presents(t *testing.T, h *Handler, address, secret string) (int, time.Duration) {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), "GET", hotNARInfo, nil)
	if secret != "" {
		r.Header.Set("Authorization", "Bearer "+secret)
	}
	w := httptest.NewRecorder()
	begin := time.Now()
	serveRecorded(t, h, w, from(r, address))
	return w.Code, time.Since(begin)
}

// TestOnlyWrongSecretsAreSlowedDown: not those who sent none, nor who lack the
// right, nor those who have the right one after many wrong ones.
func TestOnlyWrongSecretsAreSlowedDown(t *testing.T) {
	h := privateHandler(t)
	synctest.Test(t, func(t *testing.T) {
		h.serving = t.Context()
		const address, other = "192.0.2.77", "192.0.2.78"
		for range 100 {
			presents(t, h, address, "")
			presents(t, h, address, "pusher")
		}
		if status, took := presents(t, h, address, "wrong"); status != http.StatusForbidden || took > 0 {
			t.Errorf("the first wrong one: %d after %v", status, took)
		}
		for range 100 {
			presents(t, h, address, "wrong")
		}
		for _, test := range []struct {
			address, secret string
			status          int
			took            bool
		}{
			{address, "wrong", http.StatusForbidden, true},
			{address, "reader", http.StatusOK, false},
			{address, "pusher", http.StatusForbidden, false},
			{address, "", http.StatusUnauthorized, false},
			{other, "wrong", http.StatusForbidden, false},
		} {
			status, took := presents(t, h, test.address, test.secret)
			if status != test.status || (took > 0) != test.took || took > 2*time.Second {
				t.Errorf("%s with %q: %d after %v; want %d, slow %v", test.address, test.secret, status, took, test.status, test.took)
			}
		}
	})
}

// TestSlowAnswersEndWithTheServer: a stop or a reload waits for nobody.
func TestSlowAnswersEndWithTheServer(t *testing.T) {
	h := privateHandler(t)
	synctest.Test(t, func(t *testing.T) {
		serving, shutdown := context.WithCancel(t.Context())
		h.serving = serving
		const address = "192.0.2.79"
		for range 100 {
			presents(t, h, address, "wrong")
		}
		time.AfterFunc(time.Second, shutdown)
		if status, took := presents(t, h, address, "wrong"); status != http.StatusForbidden || took != time.Second {
			t.Errorf("%d after %v, want 403 at the shutdown, after 1s", status, took)
		}
	})
}

// TestRefusalNamesTheClient, but not what it presented.
func TestRefusalNamesTheClient(t *testing.T) {
	h := privateHandler(t)
	for address, want := range map[string]bool{"192.0.2.80": true, "2001:db8::80": true, "": false} {
		lines := new(bytes.Buffer)
		h.log = slog.New(slog.NewTextHandler(lines, nil))
		r := httptest.NewRequestWithContext(t.Context(), "PUT", hotNARInfo, strings.NewReader("text"))
		r.SetBasicAuth("any", "wrong-secret")
		w := httptest.NewRecorder()
		serveRecorded(t, h, w, from(r, address))
		line := lines.String()
		if w.Code != http.StatusForbidden || !strings.Contains(line, "msg=refused") || strings.Contains(line, "wrong-secret") {
			t.Errorf("status %d, and the log has %q", w.Code, line)
		}
		if named := strings.Contains(line, "client="+address); named != want {
			t.Errorf("from %q: the log has %q", address, line)
		}
	}
}
