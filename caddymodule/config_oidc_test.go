package caddymodule

import (
	"errors"
	"net/http"
	"reflect"
	"strings"
	"testing"

	"github.com/stevedores-org/nix-cache/caddymodule/auth"
	"github.com/stevedores-org/nix-cache/caddymodule/auth/oidc"
)

func TestOIDC(t *testing.T) {
	t.Setenv("TEST_ORG", "my-org")
	t.Setenv("TEST_ISSUER", "https://gitlab.com")
	s := mustResolve(t, `{"oidc": [{"issuer": "{env.TEST_ISSUER}", "audience": "cache.{env.TEST_ORG}", "allow": ["upload", "delete"],
		"claim": [{"name": "project_path", "patterns": ["{env.TEST_ORG}/*"]}]}]}`)
	want := []oidc.Grant{{
		Issuer: "https://gitlab.com", Audience: "cache.my-org", Rights: auth.Upload | auth.Delete,
		Claims: []oidc.Claim{{Name: "project_path", Patterns: []string{"my-org/*"}}},
	}}
	if !reflect.DeepEqual(s.oidc, want) {
		t.Errorf("grants = %+v", s.oidc)
	}
}

// TestOIDCOfWhatIsNotSet: a variable that is not set lets nobody in more.
func TestOIDCOfWhatIsNotSet(t *testing.T) {
	for _, test := range []struct{ config, want string }{
		{`{"issuer": "{env.TEST_UNSET}", "audience": "a", "allow": ["upload"], "claim": [{"name": "c", "patterns": ["p"]}]}`, "{env.TEST_UNSET} is empty"},
		{`{"issuer": "https://gitlab.com", "audience": "{env.TEST_UNSET}", "allow": ["upload"], "claim": [{"name": "c", "patterns": ["p"]}]}`, "{env.TEST_UNSET} is empty"},
		{`{"issuer": "https://gitlab.com", "audience": "a", "allow": ["upload"], "claim": [{"name": "c", "patterns": ["p", "{env.TEST_UNSET}"]}]}`, "{env.TEST_UNSET} is empty"},
		{`{"issuer": "https://gitlab.com", "audience": "a", "allow": ["upload"], "claim": [{"name": "c", "patterns": ["repo:{env.TEST_UNSET}*"]}]}`, "{env.TEST_UNSET} is empty"},
		{`{"issuer": "https://gitlab.com", "allow": ["upload"], "claim": [{"name": "c", "patterns": ["p"]}]}`, "audience is not set"},
		{`{"audience": "a", "allow": ["upload"], "claim": [{"name": "c", "patterns": ["p"]}]}`, "oidc: issuer"},
		{`{"issuer": "https://gitlab.com", "audience": "a", "allow": ["upload"]}`, "no claim tells"},
		{`{"issuer": "https://gitlab.com", "audience": "a", "allow": ["write"], "claim": [{"name": "c", "patterns": ["p"]}]}`, `"write"`},
	} {
		_, err := resolve(t, `{"oidc": [`+test.config+`]}`)
		if err == nil || !strings.HasPrefix(err.Error(), "oidc") || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v; want %q", test.config, err, test.want)
		}
	}
}

func TestStatusOfOIDC(t *testing.T) {
	for _, method := range []string{http.MethodGet, http.MethodPut, http.MethodDelete} {
		status, line := statusOf(method, &oidc.RefusedError{Reason: "the token expired", Detail: "inside"})
		if status != http.StatusForbidden || line != "the token expired" {
			t.Errorf("%s with a token that is refused: %d %q", method, status, line)
		}
		status, line = statusOf(method, &oidc.UnavailableError{Issuer: "https://inside.example.org", Err: errors.New("inside")})
		if status != http.StatusServiceUnavailable || strings.Contains(line, "inside") {
			t.Errorf("%s while the issuer is down: %d %q", method, status, line)
		}
	}
}

// TestIssuersOutliveAConfig: one that is loaded takes over the keys of the one
// it replaces, and the last one ends what is left.
func TestIssuersOutliveAConfig(t *testing.T) {
	const issuer = "https://gitlab.com"
	load := func() *Handler {
		h := &Handler{set: settings{oidc: []oidc.Grant{{Issuer: issuer}, {Issuer: issuer}}}}
		h.takeIssuers()
		return h
	}
	first, second := load(), load()
	if first.issuers[issuer] != second.issuers[issuer] {
		t.Error("two configs have an issuer of their own each")
	}
	for i, h := range []*Handler{first, second} {
		if n, used := issuers.References(issuer); n != 2-i || !used {
			t.Errorf("%d users, want %d", n, 2-i)
		}
		if err := h.Cleanup(); err != nil {
			t.Error(err)
		}
	}
	if _, used := issuers.References(issuer); used {
		t.Error("the issuer is still in use")
	}
}
