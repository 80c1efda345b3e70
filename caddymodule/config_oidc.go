package caddymodule

import (
	"fmt"
	"log/slog"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/stevedores-org/nix-cache/caddymodule/auth"
	"github.com/stevedores-org/nix-cache/caddymodule/auth/oidc"
)

// OIDCConfig lets in jobs of a CI that present, in place of a secret, a JSON Web
// Token that the CI's OpenID Connect issuer signed for them. Several may name one
// issuer: a job that fulfils several has the rights of all.
type OIDCConfig struct {
	// The issuer's URL, just as its tokens have it in the claim iss: with https,
	// or with http if it is on this machine. Its keys are fetched when the first
	// token comes. Required.
	Issuer Value `json:"issuer,omitempty"`

	// What the tokens have to have in the claim aud, so that those which are
	// meant for other services don't count. Required.
	Audience Value `json:"audience,omitempty"`

	// What else the tokens have to say: all of these. Required, and one at
	// least has to have patterns that not everything matches.
	Claims []OIDCClaim `json:"claim,omitempty"`

	// What the jobs may do, of: read, upload, delete. Required.
	Allow []string `json:"allow,omitempty"`
}

// OIDCClaim is a claim that has to match one of its patterns.
type OIDCClaim struct {
	// The claim's name, such as repository.
	Name string `json:"name,omitempty"`

	// In a pattern, * stands for any run of characters, "/" among them; all
	// others stand for themselves. Of an array one element has to match.
	Patterns []Value `json:"patterns,omitempty"`
}

// oidcOptions has a row for each subdirective in the block of `oidc`.
var oidcOptions = map[string]func(*OIDCConfig, *caddyfile.Dispenser) error{
	"audience": value(func(c *OIDCConfig) *Value { return &c.Audience }, anyText),
	"claim":    (*OIDCConfig).unmarshalClaim,
	"allow":    (*OIDCConfig).unmarshalAllow,
}

func (h *Handler) unmarshalOIDC(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	if len(args) != 1 {
		return d.Errf("oidc: expected `oidc <issuer> { … }`, got %d words", len(args))
	}
	here := *d // for what the whole block lacks
	var c OIDCConfig
	if err := setValue(d, "oidc", &c.Issuer, args[0], oidc.CheckIssuer); err != nil {
		return err
	}
	if err := unmarshalBlock(&c, d, block[OIDCConfig]{oidcOptions, "oidc " + args[0] + ": ", h.Source}); err != nil {
		return err
	}
	g, err := c.grant(func(v Value) string { return string(v) })
	if err == nil {
		err = g.Check()
	}
	if err != nil {
		return here.Errf("oidc %s: %v", c.Issuer, err)
	}
	h.OIDC = append(h.OIDC, c)
	return nil
}

func (c *OIDCConfig) unmarshalClaim(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	if len(args) < 2 {
		return d.Errf("claim: expected a name and patterns, got %d words", len(args))
	}
	claim := OIDCClaim{Name: args[0]}
	for _, pattern := range args[1:] {
		claim.Patterns = append(claim.Patterns, Value(pattern))
	}
	c.Claims = append(c.Claims, claim)
	return nil
}

func (c *OIDCConfig) unmarshalAllow(d *caddyfile.Dispenser) error {
	c.Allow = d.RemainingArgs()
	if len(c.Allow) == 0 {
		return d.Err("allow: expected read, upload or delete")
	}
	if _, err := auth.ParseRights(c.Allow); err != nil {
		return d.Errf("allow: %v", err)
	}
	return nil
}

// grant is what the config describes; text is what its values stand for.
func (c OIDCConfig) grant(text func(Value) string) (oidc.Grant, error) {
	g := oidc.Grant{Issuer: text(c.Issuer), Audience: text(c.Audience)}
	for _, claim := range c.Claims {
		var patterns []string
		for _, p := range claim.Patterns {
			patterns = append(patterns, text(p))
		}
		g.Claims = append(g.Claims, oidc.Claim{Name: claim.Name, Patterns: patterns})
	}
	var err error
	g.Rights, err = auth.ParseRights(c.Allow)
	return g, err
}

func (c OIDCConfig) resolve(v *values) oidc.Grant {
	setting := "oidc " + string(c.Issuer)
	g, err := c.grant(func(value Value) string { return v.filled(setting, value) })
	v.fail(setting, err)
	v.failOf("oidc", c.Issuer, oidc.CheckIssuer(g.Issuer))
	v.fail(setting, g.Check())
	return g
}

// filled resolves a value of which no placeholder may be empty: repo:{env.ORG}/*
// would let in others if the variable is not set.
func (v *values) filled(setting string, value Value) string {
	s, err := v.repl.ReplaceFunc(string(value), func(placeholder string, value any) (any, error) {
		if value == "" {
			return nil, fmt.Errorf("{%s} is empty", placeholder)
		}
		return known(placeholder, value)
	})
	v.fail(setting, err)
	return s
}

// issuers are those in use, by URL: their keys outlive a config.
var issuers = caddy.NewUsagePool()

type pooledIssuer struct{ *oidc.Issuer }

// Destruct ends what the issuer is being asked.
func (p pooledIssuer) Destruct() error {
	p.Close()
	return nil
}

// takeIssuers lets in the jobs that the config describes. It asks no issuer yet.
func (h *Handler) takeIssuers() {
	if len(h.set.oidc) == 0 {
		return
	}
	h.issuers = make(map[string]*oidc.Issuer)
	for _, g := range h.set.oidc {
		if h.issuers[g.Issuer] == nil {
			h.issuers[g.Issuer] = takeIssuer(g.Issuer)
		}
	}
	h.set.authorities = append(h.set.authorities, oidc.Authority{Grants: h.set.oidc, Issuers: h.issuers})
}

func takeIssuer(url string) *oidc.Issuer {
	v, _, _ := issuers.LoadOrNew(url, func() (caddy.Destructor, error) {
		return pooledIssuer{oidc.NewIssuer(url, slog.New(currentLog{}))}, nil
	})
	return v.(pooledIssuer).Issuer
}

func (h *Handler) giveBackIssuers() error {
	for url := range h.issuers {
		if _, err := issuers.Delete(url); err != nil {
			return err
		}
	}
	return nil
}
