package oidc

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/stevedores-org/nix-cache/caddymodule/auth"
)

func TestPatterns(t *testing.T) {
	for _, test := range []struct {
		pattern, value string
		want           bool
	}{
		{"my-org/app", "my-org/app", true},
		{"my-org/app", "my-org/app2", false},
		{"my-org/app", "My-Org/app", false},
		{"my-org/app", "", false},
		{"my-org/*", "my-org/app", true},
		{"my-org/*", "my-org/", true},
		{"my-org/*", "my-org", false},
		{"my-org/*", "my-org-evil/app", false},
		{"my-org/*", "evil/my-org/app", false},
		{"my-org*", "my-org-evil/app", true}, // as the README warns
		{"repo:my-org/app:*", "repo:my-org/app:ref:refs/heads/main", true},
		{"repo:my-org/*:ref:refs/heads/main", "repo:my-org/app:ref:refs/heads/main", true},
		{"repo:my-org/*:ref:refs/heads/main", "repo:my-org/app:ref:refs/heads/main2", false},
		{"refs/tags/v*.*.*", "refs/tags/v1.2.3", true},
		{"refs/tags/v*.*.*", "refs/tags/v1.2", false},
		{"*main", "main", true},
		{"*main", "main main", true},
		{"a*b*a", "aba", true},
		{"a*a", "a", false},
		{"a*bc*c", "abc", false},
		{"**", "anything", true},
		{"*", "", true},
		{"a?c", "abc", false},
		{"a.c", "abc", false},
		{"[ab]", "a", false},
		{`\*`, "*", false},
		{"ümläut*", "ümläut!", true},
	} {
		if got := match(test.pattern, test.value); got != test.want {
			t.Errorf("match(%q, %q) = %v", test.pattern, test.value, got)
		}
	}
}

func TestClaimsOfAllTypes(t *testing.T) {
	for _, test := range []struct {
		raw, pattern string
		want         bool
	}{
		{`"main"`, "main", true},
		{`"ma\u0069n"`, "main", true},
		{`true`, "true", true},
		{`false`, "true", false},
		{`12345678901234567890`, "12345678901234567890", true},
		{`12`, "1*", true},
		{`1.5`, "1.5", true},
		{`["a", "b"]`, "b", true},
		{`["a", "b"]`, "c", false},
		{`["a", "b"]`, "a*b", false},
		{`["a", 7, true]`, "7", true},
		{`[["a"]]`, "a", false},
		{`[]`, "*", false},
		{`null`, "*", false},
		{`[null]`, "*", false},
		{`{"a": "b"}`, "*", false},
		{`""`, "*", true},
	} {
		c := Claim{Name: "c", Patterns: []string{"never", test.pattern}}
		if got := c.matches(json.RawMessage(test.raw)); got != test.want {
			t.Errorf("%s matches %q: %v", test.raw, test.pattern, got)
		}
	}
}

func TestGrantsThatAreRefused(t *testing.T) {
	good := func() Grant {
		return Grant{
			Issuer: "https://gitlab.com", Audience: "cache", Rights: 1,
			Claims: []Claim{{"project_path", []string{"my-org/*"}}, {"environment", []string{"*"}}},
		}
	}
	if err := good().Check(); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name   string
		change func(*Grant)
		want   string
	}{
		{"no issuer", func(g *Grant) { g.Issuer = "" }, "not a URL"},
		{"issuer without scheme", func(g *Grant) { g.Issuer = "gitlab.com" }, "not a URL"},
		{"issuer over http", func(g *Grant) { g.Issuer = "http://gitlab.com" }, "expected https"},
		{"issuer that looks local", func(g *Grant) { g.Issuer = "http://localhost.example.org" }, "expected https"},
		{"issuer with a password", func(g *Grant) { g.Issuer = "https://a:b@gitlab.com" }, "not a URL"},
		{"issuer with a query", func(g *Grant) { g.Issuer = "https://gitlab.com?x" }, "not a URL"},
		{"no audience", func(g *Grant) { g.Audience = "" }, "audience is not set"},
		{"no right", func(g *Grant) { g.Rights = 0 }, "allow is not set"},
		{"no claim", func(g *Grant) { g.Claims = nil }, "everybody"},
		{"claims that all have", func(g *Grant) { g.Claims = []Claim{{"sub", []string{"x", "*"}}, {"aud", []string{"**"}}} }, "everybody"},
		{"what jobs of all projects may have", func(g *Grant) { g.Claims = []Claim{{"ref_protected", []string{"true"}}} }, "project_path my-org/*"},
		{"projects of that name of everybody", func(g *Grant) { g.Claims = []Claim{{"project_path", []string{"my-org/*", "*/nix"}}} }, "everybody"},
		{"every subject", func(g *Grant) { g.Claims = []Claim{{"sub", []string{"project_path:*:ref:main"}}} }, "everybody"},
		{"branches of all repositories", func(g *Grant) {
			g.Issuer, g.Claims = "https://token.actions.githubusercontent.com", []Claim{{"ref", []string{"refs/heads/main"}}}
		}, "repository my-org/*"},
		{"a workflow that all may call", func(g *Grant) {
			g.Issuer, g.Claims = "https://token.actions.githubusercontent.com", []Claim{{"job_workflow_ref", []string{"my-org/*"}}}
		}, "everybody"},
		{"claim without patterns", func(g *Grant) { g.Claims[0].Patterns = nil }, "project_path"},
		{"claim with an empty pattern", func(g *Grant) { g.Claims[0].Patterns = []string{"a", ""} }, "project_path"},
		{"claim without a name", func(g *Grant) { g.Claims[0].Name = "" }, "name"},
	} {
		g := good()
		test.change(&g)
		if err := errors.Join(CheckIssuer(g.Issuer), g.Check()); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", test.name, err, test.want)
		}
	}
	for _, enough := range []Grant{
		{Issuer: "https://gitlab.com", Claims: []Claim{{"sub", []string{"project_path:my-org/*"}}}},
		{Issuer: "https://token.actions.githubusercontent.com", Claims: []Claim{{"repository_owner_id", []string{"1234"}}}},
		{Issuer: "https://gitlab.example.org", Claims: []Claim{{"ref_protected", []string{"true"}}}},
	} {
		enough.Audience, enough.Rights = "cache", auth.Upload
		if err := enough.Check(); err != nil {
			t.Errorf("%s, %v: %v", enough.Issuer, enough.Claims, err)
		}
	}
	for _, local := range []string{"http://localhost:8080", "http://127.0.0.1:1/path", "http://[::1]:80"} {
		if err := CheckIssuer(local); err != nil {
			t.Error(err)
		}
	}
}
