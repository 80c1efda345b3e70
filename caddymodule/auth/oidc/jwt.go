package oidc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// maxToken is the most bytes that a token may have. Those of GitHub and GitLab
// have about 2 kB.
const maxToken = 16 << 10

// algorithms are those with a key of which only one half is published. A token
// that names another one, "none" or one of the HMAC family, is not even parsed.
var algorithms = []jose.SignatureAlgorithm{
	jose.RS256, jose.RS384, jose.RS512,
	jose.PS256, jose.PS384, jose.PS512,
	jose.ES256, jose.ES384, jose.ES512,
	jose.EdDSA,
}

// unverified is a token of which nothing is known to be true.
type unverified struct {
	token  *jwt.JSONWebToken
	issuer string
}

// header has of a token's header what it takes to find the key. Keys and
// addresses of keys in the header itself (jwk, jku, x5c, x5u) count for nothing.
func (u unverified) header() (keyID string, algorithm jose.SignatureAlgorithm) {
	h := u.token.Headers[0]
	return h.KeyID, jose.SignatureAlgorithm(h.Algorithm)
}

// shaped reports whether it is worth while to parse what was presented: mostly it
// is some other secret.
func shaped(presented string) bool {
	return len(presented) <= maxToken && strings.Count(presented, ".") == 2
}

func parse(presented string) (unverified, error) {
	token, err := jwt.ParseSigned(presented, algorithms)
	if err != nil {
		return unverified{}, fmt.Errorf("parse JWT: %w", err)
	}
	var claims struct {
		Issuer string `json:"iss"`
	}
	if err := token.UnsafeClaimsWithoutVerification(&claims); err != nil {
		return unverified{}, fmt.Errorf("parse claims: %w", err)
	}
	return unverified{token, claims.Issuer}, nil
}

// job is what a token says of whom it is for, verified.
type job struct {
	jwt.Claims
	claims map[string]json.RawMessage // all of them
}

// verify checks the signature and the times.
func (is *Issuer) verify(ctx context.Context, u unverified) (*job, error) {
	id, algorithm := u.header()
	keys, err := is.find(ctx, id)
	if err != nil {
		return nil, err
	}
	for _, key := range keys {
		if key.Algorithm != "" && key.Algorithm != string(algorithm) {
			continue
		}
		j := new(job)
		err := u.token.Claims(key.Key, &j.claims)
		if errors.Is(err, jose.ErrCryptoFailure) {
			continue
		}
		if err != nil {
			return nil, &RefusedError{Reason: wrongSignature, Detail: fmt.Sprintf("%.200s", err.Error())}
		}
		if err := j.readClaims(); err != nil {
			return nil, err
		}
		return j, j.validate(is.url)
	}
	return nil, &RefusedError{Reason: wrongSignature, Detail: fmt.Sprintf("kid %.200q, alg %s, %d keys tried", id, algorithm, len(keys))}
}

// readClaims reads the claims that every token may have. The issuer has signed
// them, so that one of the wrong type is its mistake, or its sender's.
func (j *job) readClaims() error {
	for name, claim := range map[string]any{
		"iss": &j.Issuer, "sub": &j.Subject, "aud": &j.Audience,
		"exp": &j.Expiry, "nbf": &j.NotBefore, "iat": &j.IssuedAt, "jti": &j.ID,
	} {
		raw, there := j.claims[name]
		if !there {
			continue
		}
		if err := json.Unmarshal(raw, claim); err != nil {
			return &RefusedError{Reason: wrongType(name), Detail: fmt.Sprintf("it is %.200s", raw)}
		}
	}
	return nil
}

func (j *job) validate(issuer string) error {
	if j.Expiry == nil {
		return &RefusedError{Reason: incomplete, Detail: "there is no exp"}
	}
	switch err := j.ValidateWithLeeway(jwt.Expected{Issuer: issuer}, jwt.DefaultLeeway); {
	case errors.Is(err, jwt.ErrExpired):
		return &RefusedError{Reason: expired, Detail: "at " + j.Expiry.Time().UTC().String()}
	case errors.Is(err, jwt.ErrNotValidYet), errors.Is(err, jwt.ErrIssuedInTheFuture):
		return &RefusedError{Reason: tooEarly, Detail: err.Error()}
	case err != nil:
		return &RefusedError{Reason: wrongSignature, Detail: err.Error()}
	}
	return nil
}

// unlike says which claim is not as expected; "" if none.
func (j *job) unlike(claims []Claim) string {
	for _, c := range claims {
		raw, there := j.claims[c.Name]
		if !there {
			return fmt.Sprintf("there is no claim %s", c.Name)
		}
		if !c.matches(raw) {
			return fmt.Sprintf("claim %s is %.200s, and not as one of %q", c.Name, raw, c.Patterns)
		}
	}
	return ""
}
