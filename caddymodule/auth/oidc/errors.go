package oidc

import "github.com/stevedores-org/nix-cache/caddymodule/auth"

// RefusedError is a token that is shaped as it should be, but lets nobody in.
type RefusedError struct {
	Reason string // one line for whoever sent it; tells nothing of the config
	Detail string // for the log; holds values of claims, but not the token
}

// Reasons. But for the first, they are given for tokens only that their issuer
// has signed.
const (
	wrongSignature = "no key that the token's issuer publishes has signed it"
	expired        = "the token expired: get a new one just before it is used"
	tooEarly       = "the token is not valid yet"
	incomplete     = "the token lacks a claim that every token needs"
	wrongAudience  = "the token's audience is not this cache's"
	wrongClaims    = "the token's claims are not those of a job that this cache lets in"
)

// wrongType is the reason where a claim has a value that it can't have.
func wrongType(claim string) string {
	return "the token's claim " + claim + " has the wrong type, or is out of range"
}

func (e *RefusedError) Error() string { return e.Reason + " (" + e.Detail + ")" }

// Unwrap makes it an unknown credential, like any other that lets nobody in.
func (*RefusedError) Unwrap() error { return auth.ErrUnknownCredential }

// UnavailableError says that a token could be neither accepted nor refused, since
// its issuer does not tell its keys.
type UnavailableError struct {
	Issuer string
	Err    error
}

func (e *UnavailableError) Error() string {
	return "fetch the keys of " + e.Issuer + ": " + e.Err.Error()
}

func (e *UnavailableError) Unwrap() error { return e.Err }
