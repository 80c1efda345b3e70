package auth

import (
	"context"
	"errors"
	"net/http"
	"strings"
)

// ErrNoCredential says that a request has no Authorization, or one that is
// neither Basic nor Bearer or holds no secret.
var ErrNoCredential = errors.New("no credential")

// ErrUnknownCredential says that the secret presented is nobody's.
var ErrUnknownCredential = errors.New("unknown credential")

// Authority tells whose a presented secret is.
type Authority interface {
	// Identify tells whose secret it is: an error that wraps
	// ErrUnknownCredential if nobody's that this authority knows, another one
	// if it can't tell. No error shows the secret.
	Identify(ctx context.Context, presented string) (Token, error)

	// Any reports whether somebody whom it knows may have the right.
	Any(right Rights) bool
}

// Authorities are one that asks each of them in turn.
type Authorities []Authority

// Identify returns the first answer of one that knows the secret. If none does,
// its error is of the first that can't tell, or else of the first that has a
// reason, or else ErrUnknownCredential.
func (as Authorities) Identify(ctx context.Context, presented string) (Token, error) {
	unknown := ErrUnknownCredential
	for _, a := range as {
		token, err := a.Identify(ctx, presented)
		if err == nil {
			return token, nil
		}
		if weight(err) > weight(unknown) {
			unknown = err
		}
	}
	return Token{}, unknown
}

// weight tells how much an error says.
func weight(err error) int {
	switch {
	case err == ErrUnknownCredential:
		return 0
	case errors.Is(err, ErrUnknownCredential):
		return 1
	default:
		return 2
	}
}

// Any reports whether one of them knows somebody who may have the right.
func (as Authorities) Any(right Rights) bool {
	for _, a := range as {
		if a.Any(right) {
			return true
		}
	}
	return false
}

// Presented returns the secret that a request presents, as the password of
// Basic or as Bearer, or ErrNoCredential.
func Presented(r *http.Request) (string, error) {
	secret, ok := credential(r)
	if !ok || secret == "" {
		return "", ErrNoCredential
	}
	return secret, nil
}

func credential(r *http.Request) (secret string, ok bool) {
	if _, password, ok := r.BasicAuth(); ok {
		return password, true
	}
	scheme, secret, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	return strings.TrimSpace(secret), strings.EqualFold(scheme, "Bearer")
}
