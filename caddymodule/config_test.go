package caddymodule

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/stevedores-org/nix-cache/caddymodule/auth"
	"github.com/stevedores-org/nix-cache/caddymodule/cache/disk"
	"github.com/stevedores-org/nix-cache/caddymodule/origin/limit"
	"github.com/stevedores-org/nix-cache/caddymodule/upload"
)

// resolve reads a handler's JSON as Provision does.
func resolve(t *testing.T, config string) (settings, error) {
	t.Helper()
	h := Handler{log: slog.New(slog.DiscardHandler)}
	if err := json.Unmarshal([]byte(config), &h); err != nil {
		t.Fatal(err)
	}
	return h.resolve(caddy.NewReplacer())
}

func mustResolve(t *testing.T, config string) settings {
	t.Helper()
	s, err := resolve(t, config)
	if err != nil {
		t.Fatalf("%s: %v", config, err)
	}
	return s
}

func TestDefaults(t *testing.T) {
	s := mustResolve(t, `{}`)
	if s.name != "nix-cache" || s.memory != 256<<20 || s.negativeTTL != 30*time.Second || s.priority != 40 ||
		s.narinfoMaxAge != 365*24*time.Hour || s.maxUploadSize != 5<<30-5<<20 {
		t.Errorf("settings = %+v", s)
	}
	if s.origin.dir != dataDir("objects") || s.diskPath != "" {
		t.Errorf("origin %q, tier %q; want Caddy's data directory, and no tier for it", s.origin.dir, s.diskPath)
	}
	if s.onDivergence != upload.KeepFirst || s.references != upload.AnyReferences {
		t.Errorf("on_divergence is %v, require_references %v", s.onDivergence, s.references)
	}
	if s.authorities.Any(0) || s.trustedKeys.Len() > 0 {
		t.Error("a token or a key is known")
	}
	s = mustResolve(t, `{"origin": {"r2": {"bucket": "b"}}}`)
	if s.diskPath != dataDir("tier") || s.disk != (disk.Limits{Bytes: 10 << 30, MinFree: 1 << 30}) {
		t.Errorf("tier %q, %+v", s.diskPath, s.disk)
	}
	if s.origin.parallel != 8 || s.origin.partSize() != 16<<20 || s.origin.maxRequests != limit.DefaultPlaces {
		t.Errorf("origin = %+v", s.origin)
	}
}

func TestValues(t *testing.T) {
	t.Setenv("TEST_SIZE", "2GiB")
	for _, config := range []string{
		`{"memory": "1GiB", "priority": "10", "negative_ttl": "0", "narinfo_max_age": "1d"}`,
		`{"memory": 1073741824, "priority": 10, "negative_ttl": 0, "narinfo_max_age": "24h"}`,
	} {
		s := mustResolve(t, config)
		if s.memory != 1<<30 || s.priority != 10 || s.negativeTTL != 0 || s.narinfoMaxAge != 24*time.Hour {
			t.Errorf("%s: settings = %+v", config, s)
		}
	}
	s := mustResolve(t, `{"memory": "{env.TEST_SIZE}", "max_upload_size": "{env.TEST_UNSET}", "name": "x-{env.TEST_SIZE}"}`)
	if s.memory != 2<<30 || s.maxUploadSize != defaultMaxSize || s.name != "x-2GiB" {
		t.Errorf("settings = %+v", s)
	}
}

func TestNoNumber(t *testing.T) {
	for _, config := range []string{`{"memory": true}`, `{"memory": {}}`, `{"memory": [1]}`} {
		if err := json.Unmarshal([]byte(config), new(Handler)); err == nil {
			t.Errorf("%s was accepted", config)
		}
	}
}

func TestTokens(t *testing.T) {
	t.Setenv("TEST_TOKEN", "from the environment")
	t.Setenv("TEST_TOKEN_FILE", tempFile(t, "ci in-the-file read delete\n"))
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte("from a file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name, config string
		presented    string
		right        auth.Rights // 0: uploads are disabled
	}{
		{"upload_token", `{"upload_token": "plain"}`, "plain", auth.Upload},
		{"environment", `{"upload_token": "{env.TEST_TOKEN}"}`, "from the environment", auth.Upload},
		{"file", `{"upload_token": "{file.` + file + `}"}`, "from a file", auth.Upload},
		{"named", `{"token": [{"name": "ci", "secret": "{env.TEST_TOKEN}", "rights": ["delete"]}]}`, "from the environment", auth.Delete},
		{"token file", `{"token_file": "{env.TEST_TOKEN_FILE}", "upload_token": "other"}`, "in-the-file", auth.Read | auth.Delete},
		{"unset", `{"upload_token": "{env.TEST_UNSET}"}`, "", 0},
		{"empty", `{"upload_token": ""}`, "", 0},
		{"token file, unset", `{"token_file": "{env.TEST_UNSET}"}`, "", 0},
		{"named, unset", `{"token": [{"name": "ci", "secret": "{env.TEST_UNSET}", "rights": ["upload"]}]}`, "", 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			tokens := mustResolve(t, test.config).authorities
			if test.right == 0 {
				if tokens.Any(auth.Upload) || tokens.Any(auth.Read) || tokens.Any(auth.Delete) {
					t.Error("somebody is let in")
				}
				return
			}
			if token, err := tokens.Identify(t.Context(), test.presented); err != nil || token.Rights != test.right {
				t.Errorf("Identify = %+v, %v", token, err)
			}
		})
	}
}

func TestKeys(t *testing.T) {
	t.Setenv("TEST_KEYS", publicKey+" "+publicKey2)
	for config, want := range map[string]int{
		`{"trusted_public_key": ["{env.TEST_KEYS}"]}`:                      2,
		`{"trusted_public_key": ["{env.TEST_KEYS}", "` + publicKey + `"]}`: 2,
		`{"trusted_public_key": ["{env.TEST_UNSET}"]}`:                     0,
	} {
		if got := mustResolve(t, config).trustedKeys.Len(); got != want {
			t.Errorf("%s: %d keys, want %d", config, got, want)
		}
	}
}

func tempFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestRefusedConfigs: the error names the setting, and shows no secret.
func TestRefusedConfigs(t *testing.T) {
	const secret = "hunter2hunter2"
	t.Setenv("TEST_SECRET", secret)
	t.Setenv("TEST_HASH", "sha256:"+secret)
	missing := filepath.Join(t.TempDir(), "missing")
	bad, same := tempFile(t, "# tokens\nci "+secret+" write\n"), tempFile(t, "ci "+secret+" upload\n")
	for _, test := range []struct{ config, want string }{
		{`{"upload_token": "{TEST_SECRET}"}`, "upload_token: there is no placeholder {TEST_SECRET}"},
		{`{"upload_token": "{evn.TEST_SECRET}"}`, "upload_token: there is no placeholder"},
		{`{"upload_token": "{file.` + missing + `}"}`, "upload_token: the file"},
		{`{"trusted_public_key": ["{file.` + missing + `}"]}`, "trusted_public_key: the file"},
		{`{"trusted_public_key": ["{env.TEST_SECRET}x"]}`, "trusted_public_key:"},
		{`{"trusted_public_key": ["` + publicKey + `", "test-1:NXLs6/J1hVYPVAkpSsYLqOYF4A9g4tKgZzrGZ0G3LFQ="]}`, "trusted_public_key:"},
		{`{"upload_token": "{env.TEST_HASH}"}`, "upload_token: after sha256:"},
		{`{"token": [{"name": "ci", "secret": "{env.TEST_HASH}", "rights": ["read"]}]}`, "token ci: after sha256:"},
		{`{"upload_token": "{env.TEST_SECRET}", "token": [{"name": "ci", "secret": "{env.TEST_SECRET}", "rights": ["read"]}]}`, "token ci: tokens upload and ci have the same secret"},
		{`{"token": [{"name": "ci", "secret": "{env.TEST_SECRET}", "rights": ["write"]}]}`, `token ci: unknown right "write"`},
		{`{"token_file": "` + missing + `"}`, "token_file: open " + missing},
		{`{"token_file": "` + bad + `"}`, "token_file: " + bad + `:2: unknown right "write"`},
		{`{"token_file": "` + same + `", "upload_token": "{env.TEST_SECRET}"}`, "token_file: " + same + ":1: the secret is the same as that of the token upload"},
		{`{"token": [{"name": "ci", "secret": "upload", "rights": ["delete"]}]}`, "token ci: the name of a right, upload, stands where"},
		{`{"max_upload_size": "0"}`, "max_upload_size: expected a size of more than 0"},
		{`{"origin": {"r2": {"part_size": "0"}}}`, `origin r2: part_size: "0" is too little: expected at least 5.0 MiB`},
		{`{"origin": {"r2": {"parallel": "0"}}}`, `origin r2: parallel: expected a whole number of at least 1, got "0"`},
		{`{"origin": {"r2": {"max_requests": "0"}}}`, `origin r2: max_requests: expected a whole number of at least 1, got "0"`},
		{`{"memory": "much"}`, `memory: expected a size such as 512MiB or 10GB, got "much"`},
		{`{"accept_compression": ["xz", "{env.TEST_UNSET}zst"]}`, `accept_compression: parse compression: expected none, xz, zstd, bzip2, br, gzip, lzip or lz4, got "zst"`},
		{`{"require_references": "{env.TEST_UNSET}on"}`, `require_references: expected off or same_cache, got "on"`},
		{`{"on_divergence": "{env.TEST_UNSET}overwrite"}`, `on_divergence: expected keep or reject, got "overwrite"`},
		{`{"memory": "{nope}"}`, "memory: there is no placeholder {nope}"},
		{`{"origin": {"r2": {"secret_access_key": "{nope}"}}}`, "origin r2: secret_access_key: there is no placeholder {nope}"},
		{`{"origin": {"r2": {}, "dir": {}}}`, "origin: expected one of dir and r2, got both"},
		{`{"origin": {"r2": {}}, "disk": {"size": "1MiB"}}`, "disk: 1048576 bytes are too few"},
	} {
		s, err := resolve(t, test.config)
		if err == nil {
			_, err = s.origin.open(slog.New(slog.DiscardHandler), nil)
		}
		if err == nil || !strings.HasPrefix(err.Error(), test.want) {
			t.Errorf("%s: %v; want %s", test.config, err, test.want)
		}
		if err != nil && strings.Contains(err.Error(), secret) {
			t.Errorf("%s: the error shows the secret: %v", test.config, err)
		}
	}
}

func FuzzValues(f *testing.F) {
	for _, s := range []string{"512MiB", "10GB", "1.5GiB", "30s", "7d", "1y", "255y", "40", "-1", "1e3", "NaN", "9223372036854775808", "16EiB", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if n, err := parseSize(s); err == nil && n < 0 {
			t.Errorf("parseSize(%q) = %d", s, n)
		}
		if d, err := parseDuration(s); err == nil && d < 0 {
			t.Errorf("parseDuration(%q) = %v", s, d)
		}
		if n, err := parseInteger(s); err == nil && n < 0 {
			t.Errorf("parseInteger(%q) = %d", s, n)
		}
	})
}

// newDataDir makes an empty directory Caddy's data directory.
func newDataDir(t *testing.T) string {
	dir := t.TempDir()
	t.Setenv("XDG_DATA_HOME", dir)
	t.Setenv("XDG_CONFIG_HOME", dir)
	t.Setenv("HOME", dir)
	return dir
}

// server returns a Caddy config with a route for each handler, of which each
// listens to an address of its own.
func server(handlers ...string) []byte {
	routes := make([]string, len(handlers))
	for i, h := range handlers {
		h = strings.Replace(strings.TrimSpace(h), "{", `{"handler": "nix_cache", `, 1)
		h = strings.Replace(h, ", }", "}", 1)
		routes[i] = `{"match": [{"path": ["/` + string(rune('a'+i)) + `/*"]}], "handle": [` + h + `]}`
	}
	return []byte(`{"admin": {"disabled": true, "config": {"persist": false}},
		"logging": {"logs": {"default": {"level": "PANIC"}}},
		"apps": {"http": {"grace_period": "1s", "servers": {"s": {
			"listen": ["127.0.0.1:0"], "automatic_https": {"disable": true},
			"routes": [` + strings.Join(routes, ",") + `]}}}}}`)
}

func validate(t *testing.T, config []byte) error {
	t.Helper()
	var c caddy.Config
	if err := json.Unmarshal(config, &c); err != nil {
		t.Fatalf("%v in %s", err, config)
	}
	return caddy.Validate(&c)
}

func r2At(endpoint string) string {
	return `"origin": {"r2": {"bucket": "b", "endpoint": "` + endpoint + `", "access_key_id": "id", "secret_access_key": "{env.TEST_SECRET}"}}`
}

// TestValidateTouchesNothing: neither disk nor network.
func TestValidateTouchesNothing(t *testing.T) {
	dir := newDataDir(t)
	t.Setenv("TEST_SECRET", "hunter2")
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	reached := make(chan struct{})
	go func() {
		defer close(reached)
		if conn, err := listener.Accept(); err == nil {
			conn.Close()
			t.Error("validating reached the origin")
		}
	}()
	config := server(`{}`,
		`{"origin": {"dir": {"path": "`+dir+`/objects"}}}`,
		`{"name": "r2", `+r2At("http://"+listener.Addr().String())+`, "disk": {"path": "`+dir+`/tier", "size": "1GiB"}}`,
		`{"name": "r2-default", `+r2At("http://"+listener.Addr().String())+`}`)
	if err := validate(t, config); err != nil {
		t.Fatal(err)
	}
	listener.Close()
	<-reached
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if strings.Contains(strings.TrimPrefix(path, dir), "nix-cache") || !d.IsDir() || filepath.Dir(path) == dir && d.Name() != "caddy" {
			t.Errorf("validating made %s", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	wantPool(t, 0)
}

// wantPool fails unless n caches are in use.
func wantPool(t *testing.T, n int) {
	t.Helper()
	got := 0
	caches.Range(func(_, _ any) bool {
		got++
		return true
	})
	if got != n {
		t.Errorf("%d caches are in use, want %d", got, n)
	}
}

func TestConflictingSizes(t *testing.T) {
	dir := newDataDir(t)
	t.Setenv("TEST_SECRET", "hunter2")
	tier := func(name, more string) string {
		return `{"name": "` + name + `", ` + r2At("http://127.0.0.1:1") + `, "disk": {"path": "` + dir + `/tier", "size": "1GiB"}` + more + `}`
	}
	larger := strings.Replace(tier("two", ""), "1GiB", "2GiB", 1)
	for name, configs := range map[string][]string{
		"disk":   {tier("one", ""), larger},
		"memory": {tier("one", ""), tier("two", `, "memory": "1MiB"`)},
	} {
		err := validate(t, server(configs...))
		if err == nil || !strings.Contains(err.Error(), `"one" and "two"`) || !strings.Contains(err.Error(), dir+"/tier") {
			t.Errorf("%s: %v; want an error that names both caches and the directory", name, err)
		}
		wantPool(t, 0)
	}
	if err := validate(t, server(tier("one", ""), tier("two", ""))); err != nil {
		t.Error(err)
	}
	wantPool(t, 0)
}

// TestFailedProvisionGivesBack: what a config took that is refused in the end.
func TestFailedProvisionGivesBack(t *testing.T) {
	newDataDir(t)
	if err := validate(t, server(`{}`, `{"memory": "much"}`)); err == nil {
		t.Error("accepted")
	}
	wantPool(t, 0)
}

func TestErrorsShowNoSecret(t *testing.T) {
	newDataDir(t)
	const secret = "hunter2hunter2"
	t.Setenv("TEST_SECRET", secret)
	for _, config := range []string{
		`{` + r2At("not a url") + `}`,
		`{` + r2At("http://127.0.0.1:1/path?query") + `}`,
		`{"memory": "much", ` + r2At("http://127.0.0.1:1") + `, "upload_token": "{env.TEST_SECRET}"}`,
		`{"upload_token": "sha256:{env.TEST_SECRET}"}`,
		`{"upload_token": "{env.TEST_SECRET}", "token": [{"name": "ci", "secret": "{env.TEST_SECRET}", "rights": ["read"]}]}`,
	} {
		err := validate(t, server(config))
		if err == nil {
			t.Errorf("%s was accepted", config)
		} else if strings.Contains(err.Error(), secret) {
			t.Errorf("%s: %v", config, err)
		}
	}
}

// TestOneCacheForOneConfig: handlers of the same config share their cache, in
// one config and from one to the next.
func TestOneCacheForOneConfig(t *testing.T) {
	dir := newDataDir(t)
	one := `{"origin": {"dir": {"path": "` + dir + `/one"}}}`
	two := `{"origin": {"dir": {"path": "` + dir + `/two"}}}`
	load := func(handlers ...string) {
		t.Helper()
		if err := caddy.Load(server(handlers...), true); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if err := caddy.Stop(); err != nil {
			t.Error(err)
		}
		wantPool(t, 0)
	})
	load(one, one)
	wantPool(t, 1)
	cache := pooled(t)
	load(one, two, two)
	wantPool(t, 2)
	load(one)
	wantPool(t, 1)
	if pooled(t) != cache {
		t.Error("a reload made a new cache")
	}
}

// pooled returns the one cache in use.
func pooled(t *testing.T) (p *pooledCache) {
	t.Helper()
	caches.Range(func(_, value any) bool {
		p = value.(*pooledCache)
		return false
	})
	return p
}

// TestUnknownSettingInJSON: a misspelt one is not silently left out.
func TestUnknownSettingInJSON(t *testing.T) {
	newDataDir(t)
	err := validate(t, server(`{"memroy": "1GiB"}`))
	if err == nil || !strings.Contains(err.Error(), "memroy") {
		t.Errorf("error: %v", err)
	}
}

func TestWarningOfAPrivateCacheThatNobodyCanRead(t *testing.T) {
	for config, want := range map[string]bool{
		`{"private": true}`: true,
		`{"private": true, "token": [{"name": "ci", "secret": "x", "rights": ["upload"]}]}`:         true,
		`{"private": true, "token": [{"name": "ci", "secret": "x", "rights": ["upload", "read"]}]}`: false,
		`{"private": true, "token_file": "` + tempFile(t, "ci x read") + `"}`:                       false,
		`{}`: false,
	} {
		var log bytes.Buffer
		h := Handler{log: slog.New(slog.NewTextHandler(&log, nil))}
		if err := json.Unmarshal([]byte(config), &h); err != nil {
			t.Fatal(err)
		}
		var err error
		if h.set, err = h.resolve(caddy.NewReplacer()); err != nil {
			t.Fatal(err)
		}
		h.warn()
		if warned := strings.Contains(log.String(), "nobody can read"); warned != want {
			t.Errorf("%s: warned %v, want %v: %s", config, warned, want, &log)
		}
	}
}
