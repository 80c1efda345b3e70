package caddymodule

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/stevedores-org/nix-cache/caddymodule/nix/nixtest"
)

// keyFile writes a file that only its owner can read.
func keyFile(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func signWith(t *testing.T, trusted string, files ...string) string {
	t.Helper()
	config := map[string]any{"sign_with": files}
	if trusted != "" {
		config["trusted_public_key"] = []string{trusted}
	}
	text, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestSignWith(t *testing.T) {
	a, b := nixtest.NewKey("a-1"), nixtest.NewKey("b-1")
	fileA, fileB := keyFile(t, a.SecretText()), keyFile(t, b.SecretText()+"\n")
	t.Setenv("TEST_KEY_FILE", fileB)
	for _, test := range []struct{ config, want string }{
		{signWith(t, "", fileA), "a-1"},
		{signWith(t, a.PublicKey().String(), fileA), "a-1"},
		{signWith(t, a.PublicKey().String(), fileA, "{env.TEST_KEY_FILE}"), "a-1 b-1"},
		{signWith(t, "", fileA, fileB, fileA), "a-1 b-1"},
		{signWith(t, "", "{env.TEST_UNSET}"), ""},
		{`{}`, ""},
	} {
		if got := keyNames(mustResolve(t, test.config).signWith); got != test.want {
			t.Errorf("%s: keys %q, want %q", test.config, got, test.want)
		}
	}
}

func TestSignWithRefusesWithoutTellingTheKey(t *testing.T) {
	key, other := nixtest.NewKey("a-1"), nixtest.NewKey("b-1")
	text := key.SecretText()
	_, secret, _ := strings.Cut(text, ":")
	_, otherSecret, _ := strings.Cut(other.SecretText(), ":")
	sameName := "a-1:" + otherSecret
	for _, test := range []struct {
		name, trusted, text string
		want                string
	}{
		{"empty", "", "", "no colon"},
		{"no name", "", secret, "no colon"},
		{"a public key", "", key.PublicKey().String(), "base64 of 64 bytes"},
		{"cut off", "", text[:len(text)-8], "base64 of 64 bytes"},
		{"two keys", "", text + "\n" + other.SecretText(), "base64 of 64 bytes"},
		{"halves of two keys", "", "a-1:" + secret[:40] + otherSecret[40:], "two halves"},
		{"no end", "", strings.Repeat(text, 100), "too long"},
		{"another key is trusted under its name", key.PublicKey().String(), sameName, `another key of the name "a-1"`},
	} {
		t.Run(test.name, func(t *testing.T) {
			file := keyFile(t, test.text)
			_, err := resolve(t, signWith(t, test.trusted, file))
			wantKeyError(t, err, test.text, "sign_with", file, test.want)
		})
	}
	first, second := keyFile(t, text), keyFile(t, sameName)
	_, err := resolve(t, signWith(t, "", first, second))
	wantKeyError(t, err, sameName, "sign_with", second, `two different keys of the name "a-1"`)
	_, err = resolve(t, signWith(t, "", "/nonexistent/key"))
	wantKeyError(t, err, "", "sign_with", "/nonexistent/key", "no such file")
	for _, given := range []string{text, text + "\n", text[:80]} {
		_, err = resolve(t, signWith(t, "", given))
		wantKeyError(t, err, secret, "sign_with", "got a key")
	}
	_, err = resolve(t, signWith(t, text, first))
	wantKeyError(t, err, secret, "trusted_public_key", "it is a secret key")
	_, err = resolve(t, signWith(t, text[:80], first))
	wantKeyError(t, err, secret, "trusted_public_key", "base64 of 32 bytes")
	_, err = resolve(t, signWith(t, "", t.TempDir()))
	wantKeyError(t, err, "", "sign_with", "is a directory")
}

func wantKeyError(t *testing.T, err error, secret string, texts ...string) {
	t.Helper()
	if err == nil {
		t.Fatal("it was accepted")
	}
	for _, text := range texts {
		if strings.Count(err.Error(), text) != 1 {
			t.Errorf("error %q does not say %q once", err, text)
		}
	}
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("more than one line: %q", err)
	}
	for i := 0; i+12 <= len(secret); i++ {
		if strings.Contains(err.Error(), secret[i:i+12]) {
			t.Fatalf("the error tells of the key: %q", err)
		}
	}
}

func TestWarningOfAKeyThatAllCanRead(t *testing.T) {
	file := keyFile(t, nixtest.NewKey("a-1").SecretText())
	for mode, warned := range map[os.FileMode]bool{0o600: false, 0o640: false, 0o644: true, 0o602: true} {
		if err := os.Chmod(file, mode); err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		h := Handler{SignWith: []Value{Value(file)}, log: slog.New(slog.NewTextHandler(&out, nil))}
		if _, err := h.resolve(caddy.NewReplacer()); err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(out.String(), file); got != warned {
			t.Errorf("mode %o: the log is %q", mode, out.String())
		}
	}
}

func TestWarningOfSigningEverything(t *testing.T) {
	key := nixtest.NewKey("a-1")
	for trusted, warned := range map[string]bool{"": true, nixtest.NewKey("b-1").PublicKey().String(): false} {
		var out bytes.Buffer
		h := Handler{SignWith: []Value{Value(keyFile(t, key.SecretText()))}, TrustedPublicKeys: []Value{Value(trusted)}}
		h.log = slog.New(slog.NewTextHandler(&out, nil))
		set, err := h.resolve(caddy.NewReplacer())
		if err != nil {
			t.Fatal(err)
		}
		h.set = set
		h.warnOfSigning()
		if got := strings.Contains(out.String(), "whatever is pushed gets our signature"); got != warned {
			t.Errorf("trusted %q: the log is %q", trusted, out.String())
		}
	}
}
