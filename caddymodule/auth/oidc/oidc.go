// Package oidc lets in jobs of a CI that has no secret of the cache: they present
// a JSON Web Token that the CI's OpenID Connect issuer signed for them. What it
// says of the job, its claims, decides what the job may do.
//
// It verifies tokens and nothing else: there is no login, no redirect and no
// client secret. Keys are fetched when the first token of an issuer comes, never
// at start.
package oidc

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/stevedores-org/nix-cache/caddymodule/auth"
)

// Grant gives rights to the jobs of an issuer whose tokens are for this audience
// and have all of these claims.
type Grant struct {
	Issuer   string // URL, as the claim iss has it
	Audience string // one of those in the claim aud
	Claims   []Claim
	Rights   auth.Rights
}

// publicIssuers sign for the whole world. One of these claims of theirs has to say
// whose job it is. A claim of what is common to many, such as ref, does not, nor
// does one of a workflow that others may call, nor of a user whom others can have
// start a job.
//
// https://docs.github.com/en/actions/reference/security/oidc,
// https://docs.gitlab.com/ci/secrets/id_token_authentication/
var publicIssuers = map[string][]string{
	"https://token.actions.githubusercontent.com": {
		"repository", "repository_id", "repository_owner", "repository_owner_id", "workflow_ref", "enterprise", "enterprise_id", "sub",
	},
	"https://gitlab.com": {"project_path", "project_id", "namespace_path", "namespace_id", "sub"},
}

// Check tells what a grant lacks, beside its issuer. One that everybody's jobs
// would fulfil is refused.
func (g Grant) Check() error {
	switch {
	case g.Audience == "":
		return errors.New("audience is not set: without it a token that is meant for another service would count here")
	case g.Rights == 0:
		return errors.New("allow is not set: expected read, upload or delete")
	}
	whose := false
	owners, public := publicIssuers[g.Issuer]
	for _, c := range g.Claims {
		if err := c.check(); err != nil {
			return err
		}
		whose = whose || !c.any() && (!public || slices.Contains(owners, c.Name) && c.begun())
	}
	switch {
	case !whose && public:
		return fmt.Errorf("no claim tells whose jobs are meant, and %s signs for everybody's: expected one of %s, such as claim %s my-org/*",
			g.Issuer, strings.Join(owners, ", "), owners[0])
	case !whose:
		return errors.New("no claim tells whose jobs are meant, and the issuer may sign for everybody's: expected such as claim repository my-org/*")
	}
	return nil
}

// Authority knows the jobs that its grants describe. A job that fulfils several
// has the rights of all of them.
type Authority struct {
	Grants  []Grant
	Issuers map[string]*Issuer // of the grants, by URL
}

// Any reports whether a grant gives the right.
func (a Authority) Any(right auth.Rights) bool {
	for _, g := range a.Grants {
		if g.Rights.Has(right) {
			return true
		}
	}
	return false
}

// Identify verifies a token. The error wraps auth.ErrUnknownCredential if it is
// good for nothing here, and is a *RefusedError if it is one of an issuer that a
// grant names; it is an *UnavailableError if that issuer could not be asked.
func (a Authority) Identify(ctx context.Context, presented string) (auth.Token, error) {
	if !shaped(presented) {
		return auth.Token{}, auth.ErrUnknownCredential
	}
	t, err := parse(presented)
	if err != nil {
		return auth.Token{}, fmt.Errorf("%w: %.200s", auth.ErrUnknownCredential, err.Error())
	}
	issuer := a.Issuers[t.issuer]
	if issuer == nil {
		return auth.Token{}, fmt.Errorf("%w: no oidc setting names the token's issuer %.200q", auth.ErrUnknownCredential, t.issuer)
	}
	job, err := issuer.verify(ctx, t)
	if err != nil {
		return auth.Token{}, err
	}
	return a.admit(job)
}

// admit gives a job the rights of the grants that it fulfils.
func (a Authority) admit(j *job) (auth.Token, error) {
	var rights auth.Rights
	refused := &RefusedError{Reason: wrongAudience, Detail: fmt.Sprintf("aud is %.200q", []string(j.Audience))}
	var unlike []string
	for _, g := range a.Grants {
		if g.Issuer != j.Issuer || !j.Audience.Contains(g.Audience) {
			continue
		}
		if difference := j.unlike(g.Claims); difference != "" {
			unlike = append(unlike, difference)
			continue
		}
		rights |= g.Rights
	}
	if len(unlike) > 0 {
		refused = &RefusedError{Reason: wrongClaims, Detail: strings.Join(unlike, "; ")}
	}
	if rights == 0 {
		return auth.Token{}, refused
	}
	return auth.Token{Name: j.name(), Rights: rights}, nil
}

// maxName is the most bytes of a name in the log.
const maxName = 200

// name is what the job is called in the log.
func (j *job) name() string {
	u, err := url.Parse(j.Issuer)
	if err != nil {
		u = new(url.URL)
	}
	clean := strings.Map(func(r rune) rune {
		if r <= ' ' || r > '~' {
			return '_'
		}
		return r
	}, "oidc:"+u.Host+":"+j.Subject)
	return clean[:min(len(clean), maxName)]
}

var _ auth.Authority = Authority{}
