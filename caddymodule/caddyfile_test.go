package caddymodule

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/fileserver"
)

const (
	publicKey  = "test-1:MXLs6/J1hVYPVAkpSsYLqOYF4A9g4tKgZzrGZ0G3LFQ="
	publicKey2 = "test-2:MXLs6/J1hVYPVAkpSsYLqOYF4A9g4tKgZzrGZ0G3LFQ="
)

// adapt returns the JSON of a Caddyfile.
func adapt(caddyfile string) ([]byte, error) {
	config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(caddyfile), map[string]any{"filename": "Caddyfile"})
	return config, err
}

// site is a Caddyfile with a block of the directive; the block begins in line 3.
func site(block string) string {
	return "http://localhost:8080 {\n\tnix_cache {\n" + block + "\n\t}\n}\n"
}

// handlers returns the JSON objects of the handlers of a name, in their order.
func handlers(t *testing.T, config []byte, name string) []map[string]any {
	t.Helper()
	var tree any
	if err := json.Unmarshal(config, &tree); err != nil {
		t.Fatal(err)
	}
	return search(tree, name)
}

func search(tree any, name string) (found []map[string]any) {
	switch node := tree.(type) {
	case map[string]any:
		if node["handler"] == name {
			return []map[string]any{node}
		}
		for _, child := range node {
			found = append(found, search(child, name)...)
		}
	case []any:
		for _, child := range node {
			found = append(found, search(child, name)...)
		}
	}
	return found
}

var directives = []struct{ name, block, want string }{
	{"nothing", ``, `{}`},
	{"name", `name "my cache"`, `{"name": "my cache"}`},
	{"origin dir", `origin dir /srv/cache`, `{"origin": {"dir": {"path": "/srv/cache"}}}`},
	{"origin dir at its default", `origin dir`, `{"origin": {"dir": {}}}`},
	{"origin r2", `origin r2 {
		bucket b
		account_id 0123456789abcdef0123456789abcdef
		jurisdiction eu
		endpoint https://r2.example.org
		access_key_id {env.KEY_ID}
		secret_access_key {env.SECRET}
		session_token {env.SESSION}
		region auto
		prefix some/path
		part_size 8MiB
		parallel 4
		max_requests 32
	}`, `{"origin": {"r2": {"bucket": "b", "account_id": "0123456789abcdef0123456789abcdef", "jurisdiction": "eu", "endpoint": "https://r2.example.org",
		"access_key_id": "{env.KEY_ID}", "secret_access_key": "{env.SECRET}", "session_token": "{env.SESSION}",
		"region": "auto", "prefix": "some/path", "part_size": "8MiB", "parallel": "4", "max_requests": "32"}}}`},
	{"memory", `memory 1GiB`, `{"memory": "1GiB"}`},
	{"memory off", `memory 0`, `{"memory": "0"}`},
	{"disk", `disk /var/cache/nix 200GiB`, `{"disk": {"path": "/var/cache/nix", "size": "200GiB"}}`},
	{"disk with space to leave", `disk /var/cache/nix 200GB 5GB`, `{"disk": {"path": "/var/cache/nix", "size": "200GB", "min_free": "5GB"}}`},
	{"disk off", `disk off`, `{"disk": {"off": true}}`},
	{"negative_ttl", `negative_ttl 10s`, `{"negative_ttl": "10s"}`},
	{"negative_ttl off", `negative_ttl 0`, `{"negative_ttl": "0"}`},
	{"upload_token that is not set", `upload_token {$TEST_NOT_SET}`, `{}`},
	{"upload_token", `upload_token {env.UPLOAD_TOKEN}`, `{"upload_token": "{env.UPLOAD_TOKEN}"}`},
	{"tokens", "token ci {env.CI} upload read\n token janitor {file./run/secret} delete",
		`{"token": [{"name": "ci", "secret": "{env.CI}", "rights": ["upload", "read"]}, {"name": "janitor", "secret": "{file./run/secret}", "rights": ["delete"]}]}`},
	{"token_file", `token_file /etc/nix-cache/tokens`, `{"token_file": "/etc/nix-cache/tokens"}`},
	{"private", `private`, `{"private": true}`},
	{"oidc", `oidc https://gitlab.com {
		audience {env.AUDIENCE}
		claim project_path my-org/* other/app
		claim ref_protected true
		allow upload read
	}
	oidc {env.ISSUER} {
		audience cache
		claim sub repo:my-org/app:*
		allow delete
	}`, `{"oidc": [
		{"issuer": "https://gitlab.com", "audience": "{env.AUDIENCE}", "allow": ["upload", "read"], "claim": [
			{"name": "project_path", "patterns": ["my-org/*", "other/app"]}, {"name": "ref_protected", "patterns": ["true"]}]},
		{"issuer": "{env.ISSUER}", "audience": "cache", "allow": ["delete"], "claim": [{"name": "sub", "patterns": ["repo:my-org/app:*"]}]}]}`},
	{"keys", "trusted_public_key " + publicKey + " {env.KEYS}\n trusted_public_key " + publicKey2,
		`{"trusted_public_key": ["` + publicKey + `", "{env.KEYS}", "` + publicKey2 + `"]}`},
	{"sign_with", "sign_with /run/a.secret {env.KEY_FILE}\n sign_with /run/b.secret",
		`{"sign_with": ["/run/a.secret", "{env.KEY_FILE}", "/run/b.secret"]}`},
	{"priority", `priority 30`, `{"priority": "30"}`},
	{"narinfo_max_age", `narinfo_max_age 7d`, `{"narinfo_max_age": "7d"}`},
	{"narinfo_max_age in years", `narinfo_max_age 2y`, `{"narinfo_max_age": "2y"}`},
	{"max_upload_size", `max_upload_size 2GiB`, `{"max_upload_size": "2GiB"}`},
	{"accept_compression", `accept_compression xz {$TEST_UNSET:zstd} {env.MORE}`, `{"accept_compression": ["xz", "zstd", "{env.MORE}"]}`},
	{"require_references", `require_references same_cache`, `{"require_references": "same_cache"}`},
	{"on_divergence", `on_divergence reject`, `{"on_divergence": "reject"}`},
	{"outage_answers", `outage_answers absent`, `{"outage_answers": "absent"}`},
	{"pass_thru", `pass_thru`, `{"pass_thru": true}`},
	{"placeholders for numbers", "memory {env.M}\n priority {env.P}\n negative_ttl {env.T}\n disk {env.D} {env.S} {env.F}",
		`{"memory": "{env.M}", "priority": "{env.P}", "negative_ttl": "{env.T}", "disk": {"path": "{env.D}", "size": "{env.S}", "min_free": "{env.F}"}}`},
}

func TestAdapt(t *testing.T) {
	for _, test := range directives {
		t.Run(test.name, func(t *testing.T) {
			config, err := adapt(site(test.block))
			if err != nil {
				t.Fatal(err)
			}
			found := handlers(t, config, "nix_cache")
			if len(found) != 1 {
				t.Fatalf("%d handlers in %s", len(found), config)
			}
			delete(found[0], "handler")
			delete(found[0], "source")
			if want := decode(t, test.want); !reflect.DeepEqual(any(found[0]), want) {
				t.Errorf("adapted to %v\nwant %v", found[0], want)
			}
		})
	}
}

// TestJSON: what the Caddyfile can say, JSON says in the same words.
func TestJSON(t *testing.T) {
	for _, test := range directives {
		var h Handler
		if err := json.Unmarshal([]byte(test.want), &h); err != nil {
			t.Errorf("%s: %v", test.name, err)
		}
		got, err := json.Marshal(&h)
		if err != nil || !reflect.DeepEqual(decode(t, string(got)), decode(t, test.want)) {
			t.Errorf("%s: %s, %v; want %s", test.name, got, err, test.want)
		}
	}
}

func decode(t *testing.T, text string) (v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func TestMistakesAreNamed(t *testing.T) {
	for _, test := range []struct {
		block string
		want  []string // the word, and what was expected
	}{
		{`memroy 1GiB`, []string{`"memroy"`, "memory", "pass_thru"}},
		{`memory`, []string{"memory", "one value"}},
		{`memory 1GiB 2GiB`, []string{"memory", "one value", "got 2"}},
		{`memory much`, []string{"memory", `"much"`, "512MiB"}},
		{`memory 256`, []string{"memory", "256 bytes are too few", "is 256MiB meant?", "1.0 MiB"}},
		{`memory 4kB`, []string{"memory", "4000 bytes are too few: expected at least 1.0 MiB, or 0 for no tier, at"}},
		{`memory -1`, []string{"memory", `"-1"`, "512MiB"}},
		{`memory ""`, []string{"memory", `""`, "512MiB"}},
		{`memory 99999999999999GiB`, []string{"memory", "99999999999999GiB", "512MiB"}},
		{`memory 16EiB`, []string{"memory", "16EiB", "512MiB"}},
		{"name a\nname b", []string{"name", "twice"}},
		{`negative_ttl 30`, []string{"negative_ttl", `"30"`, "30s"}},
		{`negative_ttl -30s`, []string{"negative_ttl", `"-30s"`, "30s"}},
		{`narinfo_max_age 999y`, []string{"narinfo_max_age", `"999y"`, "30s"}},
		{`priority high`, []string{"priority", `"high"`, "whole number"}},
		{`priority -1`, []string{"priority", `"-1"`, "not negative"}},
		{`priority 1.5`, []string{"priority", `"1.5"`, "whole number"}},
		{`max_upload_size big`, []string{"max_upload_size", `"big"`, "512MiB"}},
		{`accept_compression`, []string{"accept_compression", "none xz zstd bzip2 gzip br"}},
		{`accept_compression xz lzma`, []string{"accept_compression", `"lzma"`, "none, xz, zstd"}},
		{`require_references on`, []string{"require_references", `"on"`, "off or same_cache"}},
		{`on_divergence drop`, []string{"on_divergence", `"drop"`, "keep or reject"}},
		{`outage_answers maybe`, []string{"outage_answers", `"maybe"`, "error or absent"}},
		{`pass_thru on`, []string{"pass_thru", `"on"`, "no value"}},
		{`origin`, []string{"origin", "origin dir", "origin r2"}},
		{`origin s3`, []string{"origin", `"s3"`, "origin r2"}},
		{`origin dir /a /b`, []string{"origin", "/a /b", "origin dir"}},
		{"origin r2 {\nbukcet b\n}", []string{`"bukcet"`, "bucket"}},
		{"origin r2 {\nbucket a\nbucket b\n}", []string{"bucket", "twice"}},
		{"origin r2 {\naccount_id 0123\n}", []string{"account_id", `"0123"`, "32 hexadecimal digits"}},
		{"origin r2 {\nparallel many\n}", []string{"parallel", `"many"`, "whole number"}},
		{"origin dir /a\norigin dir /b", []string{"origin", "twice"}},
		{`disk`, []string{"disk", "<path> <size>", "disk off"}},
		{`disk /cache`, []string{"disk", "/cache", "<path> <size>"}},
		{`disk /cache big`, []string{"disk", `"big"`, "512MiB"}},
		{`disk /cache 1GiB some`, []string{"disk", `"some"`, "512MiB"}},
		{`disk /cache 1GiB 1GiB 1GiB`, []string{"disk", "<min free>"}},
		{`token ci`, []string{"token", "name, a secret and rights"}},
		{`token ci {env.CI} write`, []string{"token", `"write"`, "read, upload or delete"}},
		{`token ci {$TEST_UNSET} read upload`, []string{"token", "name of a right, read", "variable"}},
		{`token ci sha256:abc upload`, []string{"token", "64 hexadecimal digits"}},
		{`token_file`, []string{"token_file", "one value"}},
		{"token_file a\ntoken_file b", []string{"token_file", "twice"}},
		{`private read`, []string{"private", `"read"`, "no value"}},
		{`oidc`, []string{"oidc", "<issuer>"}},
		{`oidc https://a.example.org https://b.example.org`, []string{"oidc", "<issuer>", "2 words"}},
		{`oidc gitlab.com`, []string{"oidc", `"gitlab.com"`, "https://"}},
		{`oidc http://gitlab.com`, []string{"oidc", `"http://gitlab.com"`, "expected https"}},
		{`oidc https://gitlab.com`, []string{"oidc https://gitlab.com", "audience is not set"}},
		{"oidc https://gitlab.com {\n}", []string{"oidc https://gitlab.com", "audience is not set"}},
		{"oidc https://gitlab.com {\naudiance a\n}", []string{`"audiance"`, "allow, audience, claim"}},
		{"oidc https://gitlab.com {\naudience a\naudience b\n}", []string{"audience", "twice"}},
		{"oidc https://gitlab.com {\nclaim project_path\n}", []string{"claim", "a name and patterns"}},
		{"oidc https://gitlab.com {\nallow\n}", []string{"allow", "read, upload or delete"}},
		{"oidc https://gitlab.com {\nallow write\n}", []string{"allow", `"write"`, "read, upload or delete"}},
		{`trusted_public_key`, []string{"trusted_public_key", "cache.example.org-1"}},
		{`sign_with`, []string{"sign_with", "secret keys"}},
		{`trusted_public_key nonsense`, []string{"trusted_public_key", `"nonsense"`, "name:base64"}},
		{"memory 1GiB {\n}", []string{"memory", "no block"}},
		{"pass_thru {\n}", []string{"pass_thru", "no block"}},
		{"origin dir /a {\n}", []string{"origin", "no block"}},
	} {
		_, err := adapt(site(test.block))
		if err == nil {
			t.Errorf("%q was accepted", test.block)
			continue
		}
		line := 3 + strings.Count(strings.TrimRight(test.block, "\n}"), "\n")
		if at := fmt.Sprint("Caddyfile:", line); !strings.Contains(err.Error(), at) {
			t.Errorf("%q: %v\ndoes not say %s", test.block, err, at)
		}
		for _, want := range test.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%q: %v\ndoes not say %s", test.block, err, want)
			}
		}
		if strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: more than a line: %v", test.block, err)
		}
	}
}

// TestIncompleteOIDC: what a block lacks is told at its first line.
func TestIncompleteOIDC(t *testing.T) {
	for _, test := range []struct{ block, want string }{
		{"claim project_path my-org/*\nallow upload", "audience is not set"},
		{"audience cache\nclaim project_path my-org/*", "allow is not set"},
		{"audience cache\nallow upload", "no claim tells whose jobs"},
		{"audience cache\nallow upload\nclaim project_path *", "no claim tells whose jobs"},
		{"audience cache\nallow upload\nclaim project_path \"\"", "claim project_path: a pattern is empty"},
	} {
		_, err := adapt(site("oidc https://gitlab.com {\n" + test.block + "\n}"))
		if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), "Caddyfile:3") {
			t.Errorf("%q: %v\ndoes not say %s at line 3", test.block, err, test.want)
		}
	}
}

func TestArgumentsOfTheDirective(t *testing.T) {
	_, err := adapt("http://localhost:8080 {\n\tnix_cache /x/* nonsense\n}\n")
	if err == nil || !strings.Contains(err.Error(), "Caddyfile:2") || !strings.Contains(err.Error(), `"nonsense"`) {
		t.Errorf("error: %v", err)
	}
	config, err := adapt("http://localhost:8080 {\n\tnix_cache /x/*\n\tnix_cache\n}\n")
	if err != nil {
		t.Fatal(err)
	}
	if found := handlers(t, config, "nix_cache"); len(found) != 2 {
		t.Errorf("%d handlers, want one with a matcher and one without", len(found))
	}
}

func TestOrder(t *testing.T) {
	for _, block := range []string{"nix_cache\nfile_server", "file_server\nnix_cache"} {
		config, err := adapt("http://localhost:8080 {\n" + block + "\n}\n")
		if err != nil {
			t.Fatal(err)
		}
		cache, files := strings.Index(string(config), `"nix_cache"`), strings.Index(string(config), `"file_server"`)
		if cache < 0 || files < cache {
			t.Errorf("file_server comes before nix_cache: %s", config)
		}
	}
}

// TestSecretsStayInTheEnvironment: adapting resolves no placeholder.
func TestSecretsStayInTheEnvironment(t *testing.T) {
	const secret = "hunter2"
	t.Setenv("TEST_SECRET", secret)
	config, err := adapt(site(`upload_token {env.TEST_SECRET}
		token ci {env.TEST_SECRET} upload
		origin r2 {
			secret_access_key {env.TEST_SECRET}
			session_token {env.TEST_SECRET}
		}`))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(config), secret) {
		t.Errorf("the secret is in %s", config)
	}
}
