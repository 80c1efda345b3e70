package caddymodule

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
)

// TestErrorsOfLoadingSayWhere: what only shows when placeholders are resolved is
// told with file and line, too.
func TestErrorsOfLoadingSayWhere(t *testing.T) {
	newDataDir(t)
	t.Setenv("TEST_WRONG", "nonsense")
	const bucket = "bucket b\nendpoint https://r2.example.org\n"
	for _, test := range []struct{ block, want string }{
		{"name a\nmemory {env.TEST_WRONG}", `memory: expected a size such as 512MiB or 10GB, got "nonsense", at Caddyfile:4`},
		{"name a\n\nmax_upload_size {env.TEST_WRONG}", "Caddyfile:5"},
		{"origin r2 {\n" + bucket + "max_requests {env.TEST_WRONG}\n}", "max_requests: expected a whole number of at least 1, got \"nonsense\", at Caddyfile:6"},
		{"name a\norigin r2 {\n" + bucket + "}", "set access_key_id to that of an R2 API token, at Caddyfile:4"},
		{"trusted_public_key " + publicKey + "\ntrusted_public_key {env.TEST_WRONG}", "at Caddyfile:4"},
		{"token a {env.HOME} read\ntoken b {nope} read", "token b: there is no placeholder {nope}, at Caddyfile:4"},
		{"token a {env.HOME} read\ntoken b {env.HOME} read", "token b: tokens a and b have the same secret: give each its own, at Caddyfile:4"},
		{"name a\ntoken_file {file./nonexistent}", "at Caddyfile:4"},
		{"name a\nsign_with " + t.TempDir() + "/nonexistent", "at Caddyfile:4"},
		{"oidc https://gitlab.com {\naudience {env.TEST_EMPTY}\nclaim project_path o/r\nallow read\n}", "{env.TEST_EMPTY} is empty, at Caddyfile:3"},
		{"verify_reads", "there is no key to verify with: set trusted_public_key, at Caddyfile:3"},
	} {
		config, err := adapt(site(test.block))
		if err != nil {
			t.Fatal(err)
		}
		if err = validate(t, config); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%q: %v\ndoes not say %s", test.block, err, test.want)
		}
	}
}

// TestJSONNeedsNoSource: and its errors name the setting alone.
func TestJSONNeedsNoSource(t *testing.T) {
	newDataDir(t)
	err := validate(t, server(`{"memory": "much"}`))
	if err == nil || !strings.Contains(err.Error(), `memory: expected`) || strings.Contains(err.Error(), ", at ") {
		t.Errorf("error: %v", err)
	}
}

// TestSourceHasNoSecret: it is in the config that Caddy saves and shows.
func TestSourceHasNoSecret(t *testing.T) {
	config, err := adapt(site("upload_token hunter2\ntoken ci hunter2 read\norigin r2 {\nsecret_access_key hunter2\n}"))
	if err != nil {
		t.Fatal(err)
	}
	source, err := json.Marshal(handlers(t, config, directive)[0]["source"])
	if err != nil || strings.Contains(string(source), "hunter2") {
		t.Errorf("source is %s (%v)", source, err)
	}
	want := `{"nix_cache":"Caddyfile:2","origin":"Caddyfile:5","origin r2: secret_access_key":"Caddyfile:6","token":"Caddyfile:4","token ci":"Caddyfile:4","upload_token":"Caddyfile:3"}`
	if string(source) != want {
		t.Errorf("source is %s, want %s", source, want)
	}
}

func TestEmptyPlaceholdersAreTold(t *testing.T) {
	t.Setenv("TEST_EMPTY", "")
	t.Setenv("TEST_SET", "hunter2")
	var log bytes.Buffer
	h := Handler{log: slog.New(slog.NewTextHandler(&log, nil))}
	config := `{"upload_token": "{env.TEST_UNSET}", "name": "{env.TEST_SET}{env.TEST_EMPTY}", "memory": "{env.TEST_UNSET}", "token_file": "",
		"source": {"upload_token": "Caddyfile:7"}}`
	if err := json.Unmarshal([]byte(config), &h); err != nil {
		t.Fatal(err)
	}
	if _, err := h.resolve(caddy.NewReplacer()); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"setting=name placeholder={env.TEST_EMPTY}", "setting=memory placeholder={env.TEST_UNSET}", "setting=upload_token placeholder={env.TEST_UNSET} at=Caddyfile:7"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log has no %s: %s", want, &log)
		}
	}
	if n := strings.Count(log.String(), "\n"); n != 3 || strings.Contains(log.String(), "hunter2") {
		t.Errorf("the log has %d lines, want 3 without a value: %s", n, &log)
	}
}
