package caddymodule

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/stevedores-org/nix-cache/caddymodule/nix"
	"github.com/stevedores-org/nix-cache/caddymodule/nix/nixtest"
)

func TestFindCache(t *testing.T) {
	t.Setenv("TEST_NAME", "named")
	const (
		plain    = "http://a.localhost {\n nix_cache {\n origin dir /a\n }\n}\n"
		named    = "http://b.localhost {\n handle_path /x/* {\n nix_cache {\n name {env.TEST_NAME}\n origin dir /b\n }\n }\n}\n"
		again    = "http://c.localhost {\n nix_cache {\n origin dir /a\n priority 7\n }\n}\n"
		namesake = "http://d.localhost {\n nix_cache {\n origin dir /d\n }\n}\n"
		trusting = "http://e.localhost {\n nix_cache {\n origin dir /a\n trusted_public_key " + publicKey + "\n }\n}\n"
	)
	for _, test := range []struct {
		name, config, cache string
		dir                 string   // of the cache that is found
		want                []string // else, in the error
	}{
		{"the only one", plain, "", "/a", nil},
		{"in a route", named, "", "/b", nil},
		{"one of two", plain + named, "named", "/b", nil},
		{"the default name", plain + named, "nix-cache", "/a", nil},
		{"two", plain + named, "", "", []string{"--cache", "named, nix-cache"}},
		{"none of the name", plain + named, "other", "", []string{`"other"`, "named, nix-cache"}},
		{"twice", plain + again, "", "/a", nil},
		{"two of one name", plain + namesake, "", "", []string{`"nix-cache"`, "name of its own"}},
		{"two of one name that trust others", plain + trusting, "nix-cache", "", []string{`"nix-cache"`, "name of its own"}},
		{"none", "http://a.localhost {\n respond 200\n}\n", "", "", []string{"no nix_cache"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			config, err := adapt(test.config)
			if err != nil {
				t.Fatal(err)
			}
			h, err := findCache(config, test.cache)
			if test.want == nil {
				if err != nil || string(h.Origin.Dir.Path) != test.dir {
					t.Errorf("found %+v, %v; want %s", h, err, test.dir)
				}
				return
			}
			for _, text := range test.want {
				if err == nil || !strings.Contains(err.Error(), text) {
					t.Errorf("error %v does not say %s", err, text)
				}
			}
		})
	}
}

func TestForgetRequests(t *testing.T) {
	path := nix.NARInfoPath(nixtest.StorePath("hello")).String()
	for _, test := range []struct {
		method, body string
		status       int
	}{
		{"GET", ``, http.StatusMethodNotAllowed},
		{"POST", ``, http.StatusBadRequest},
		{"POST", `[]`, http.StatusBadRequest},
		{"POST", `{"cache": "x", "path": []}`, http.StatusBadRequest},
		{"POST", `{"cache": "x", "paths": ["../etc/passwd"]}`, http.StatusBadRequest},
		{"POST", `{"cache": "x", "paths": ["` + strings.Repeat("x", maxForgetRequest) + `"]}`, http.StatusBadRequest},
		{"POST", `{"cache": "x", "paths": ["` + path + `"]}`, http.StatusNotFound},
	} {
		err := serveForget(httptest.NewRecorder(), httptest.NewRequest(test.method, forgetPath, strings.NewReader(test.body)))
		if answer, ok := err.(caddy.APIError); !ok || answer.HTTPStatus != test.status {
			t.Errorf("%s %.60s: %v, want status %d", test.method, test.body, err, test.status)
		}
	}
}

// TestForgetter: many paths are a few requests, and a server that does not
// answer is asked once.
func TestForgetter(t *testing.T) {
	var bodies []string
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var b bytes.Buffer
		_, _ = b.ReadFrom(r.Body)
		bodies = append(bodies, b.String())
	}))
	defer server.Close()
	var notes []string
	note := func(format string, args ...any) { notes = append(notes, fmt.Sprintf(format, args...)) }
	address := strings.TrimPrefix(server.URL, "http://")
	f := newForgetter(&storedCache{name: "x", admin: "localhost:1"}, []string{address, "localhost:1"}, note)
	var paths []string
	for i := range 2*forgetBatch + 1 {
		path := nix.NARInfoPath(nixtest.StorePath(fmt.Sprint("p", i)))
		paths = append(paths, path.String())
		f.forget(path)
	}
	f.flush()
	f.flush()
	if len(bodies) != 3 || len(notes) != 1 || !f.failed() {
		t.Errorf("%d requests, notes %q, failed: %v", len(bodies), notes, f.failed())
	}
	all := strings.Join(bodies, "")
	if i := slices.IndexFunc(paths, func(p string) bool { return strings.Count(all, p) != 1 }); i >= 0 {
		t.Errorf("%s was not told once", paths[i])
	}

	f = newForgetter(&storedCache{name: "x", admin: "localhost:1"}, nil, note)
	f.forget(nix.NARInfoPath(nixtest.StorePath("p")))
	if f.flush(); f.failed() || len(notes) != 2 {
		t.Errorf("nobody was named, and one that does not run fails the command; notes %q", notes)
	}
	f = newForgetter(&storedCache{name: "x", admin: address}, []string{"off"}, note)
	f.forget(nix.NARInfoPath(nixtest.StorePath("p")))
	if f.flush(); f.failed() || len(notes) != 2 || len(bodies) != 3 {
		t.Error("off tells somebody")
	}
}

func TestNARInfoPaths(t *testing.T) {
	p := nixtest.StorePath("hello-1.0")
	want := nix.NARInfoPath(p)
	for _, arg := range []string{p.String(), p.String() + "/bin/hello", p.Base(), p.Hash(), want.String()} {
		if got, err := narinfoPaths([]string{arg}); err != nil || len(got) != 1 || got[0] != want {
			t.Errorf("%s: %v, %v", arg, got, err)
		}
	}
	for _, arg := range []string{"", "hello", "/etc/passwd", "/nix/store", "/nix/store/", "nar/" + p.Hash()} {
		if _, err := narinfoPaths([]string{arg}); err == nil {
			t.Errorf("%q was accepted", arg)
		}
	}
}

func TestWriteNewKey(t *testing.T) {
	key := nixtest.NewKey("a-1")
	file := t.TempDir() + "/key"
	if err := writeNewKey(file, key); err != nil {
		t.Fatal(err)
	}
	if err := writeNewKey(file, nixtest.NewKey("b-1")); err == nil {
		t.Error("it was overwritten")
	}
	if err := writeNewKey(t.TempDir()+"/no/such/dir", key); err == nil || strings.Contains(err.Error(), key.SecretText()) {
		t.Errorf("error: %v", err)
	}
	text, err := os.ReadFile(file)
	if err != nil || string(text) != key.SecretText() {
		t.Errorf("the file has another text: %v", err)
	}
}

// TestProgressWithoutATerminal: a line now and then, and results on their own.
func TestProgressWithoutATerminal(t *testing.T) {
	var out, stderr bytes.Buffer
	p := newProgress(&out, asText, &stderr)
	p.show(0.1, "too soon")
	p.next = p.next.Add(-2 * progressInterval)
	p.show(0.25, "5 signed")
	p.show(0.3, "too soon")
	p.print(finding{"problem", "a", "b"})
	if got := stderr.String(); got != "25 %: 5 signed\n" {
		t.Errorf("on standard error: %q", got)
	}
	if got := out.String(); got != "a: b\n" {
		t.Errorf("on standard output: %q", got)
	}
}

// TestJSONResults: one object a line, whatever is in the text.
func TestJSONResults(t *testing.T) {
	var out, stderr bytes.Buffer
	p := newProgress(&out, asJSON, &stderr)
	p.print(finding{"refused", "a.narinfo", "it says \"x\"\nand y"})
	p.print(signSummary{Type: "summary", Signed: 1, Before: 2, Refused: 3})
	want := `{"type":"refused","path":"a.narinfo","text":"it says \"x\"\nand y"}
{"type":"summary","signed":1,"signed_before":2,"not_signed":3,"complete":false}
`
	if got := out.String(); got != want {
		t.Errorf("on standard output: %s, want %s", got, want)
	}
}

func TestQuantity(t *testing.T) {
	for n, want := range map[int]string{0: "0 notes", 1: "1 note", 2: "2 notes"} {
		if got := quantity(n, "note"); got != want {
			t.Errorf("%d: %q, want %q", n, got, want)
		}
	}
}
