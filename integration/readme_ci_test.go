package integration

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// readmeCI is what the README's snippets about CI run against: issuers in place
// of those of GitHub and GitLab, and a site whose cache trusts them.
type readmeCI struct {
	key            oidcKey
	github, gitlab *oidcIssuer
	site           string
}

// oidc has the snippet served to those below it, with the key of "keys" in place of the example's.
func (r *readme) oidc(t *testing.T, s snippet) {
	r.directives(t, s)
	key := newOIDCKey(t, "one")
	r.ci = &readmeCI{key: key, github: startIssuer(t, key), gitlab: startIssuer(t, key)}
	text := publicKey.ReplaceAllLiteralString(s.text, strings.TrimSpace(readFile(t, r.nix.dir+"/home/cache-key.pub")))
	for url, issuer := range map[string]*oidcIssuer{
		"oidc https://token.actions.githubusercontent.com {": r.ci.github,
		"oidc https://gitlab.com {":                          r.ci.gitlab,
	} {
		if !strings.Contains(text, url) {
			t.Fatalf("README.md:%d has no %s", s.line, url)
		}
		text = strings.Replace(text, url, "oidc "+issuer.url+" {", 1)
	}
	r.ci.site = site("http://localhost", text)
}

// github runs the steps that push, as GitHub's runner does for a job on main.
func (r *readme) github(t *testing.T, s snippet) {
	var workflow struct {
		Jobs map[string]struct {
			Permissions map[string]string
			Steps       []struct{ Run string }
		}
	}
	if err := yaml.Unmarshal([]byte(s.text), &workflow); err != nil {
		t.Fatalf("README.md:%d: %v", s.line, err)
	}
	for name, job := range workflow.Jobs {
		if job.Permissions["id-token"] != "write" {
			t.Errorf("README.md:%d: job %s may not ask for a token", s.line, name)
		}
		for _, step := range job.Steps {
			if strings.Contains(step.Run, "nix copy") {
				r.pushAsJob(t, step.Run,
					"ACTIONS_ID_TOKEN_REQUEST_URL="+r.ci.runner(t)+"/token?api-version=2.0",
					"ACTIONS_ID_TOKEN_REQUEST_TOKEN="+runnerSecret,
					"RUNNER_TEMP=/mnt/cache")
			}
		}
	}
}

const runnerSecret = "runner-secret"

// runner gives tokens as GitHub does: to who has the job's secret, for the
// audience that is asked for.
func (ci *readmeCI) runner(t *testing.T) (url string) {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+runnerSecret {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		json.NewEncoder(w).Encode(map[string]any{"count": 1, "value": ci.github.token(t, ci.key, map[string]any{
			"aud": r.URL.Query().Get("audience"), "repository": "my-org/app", "ref": "refs/heads/main",
		})})
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// gitlab runs the script as GitLab's runner does for a job on a protected branch.
func (r *readme) gitlab(t *testing.T, s snippet) {
	var jobs map[string]struct {
		Tokens map[string]struct{ Aud string } `yaml:"id_tokens"`
		Script []string
	}
	if err := yaml.Unmarshal([]byte(s.text), &jobs); err != nil {
		t.Fatalf("README.md:%d: %v", s.line, err)
	}
	for _, job := range jobs {
		var env []string
		for name, token := range job.Tokens {
			env = append(env, name+"="+r.ci.gitlab.token(t, r.ci.key, map[string]any{
				"aud": token.Aud, "project_path": "my-group/my-project", "ref": "main", "ref_type": "branch", "ref_protected": "true",
			}))
		}
		r.pushAsJob(t, strings.Join(job.Script, "\n"), env...)
	}
}

// pushAsJob runs a script that pushes ./result, which is built already, to an
// empty cache, and pulls it as another user would.
func (r *readme) pushAsJob(t *testing.T, script string, env ...string) {
	t.Helper()
	c := startCaddy(t, r.ci.site)
	script = strings.NewReplacer(
		"nix build\n", "",
		"--to https://cache.example.org", "--to "+c.HTTP,
		"machine cache.example.org", "machine localhost",
	).Replace(script)
	env = append(env, "SIGNING_KEY="+strings.TrimSpace(readFile(t, r.nix.dir+"/home/cache-key.sec")))
	r.nix.run(t, "/usr/bin/env", append(env, "/bin/bash", "-euo", "pipefail", "-c", "cd\n"+script)...)
	user := newNixClient(t, r.nix.flavor, r.conf...)
	user.pull(t, c.HTTP, r.closure)
	assertSameClosure(t, r.nix, user, r.closure)
}
