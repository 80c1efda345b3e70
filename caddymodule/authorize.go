package caddymodule

import (
	"errors"
	"net/http"

	"github.com/stevedores-org/nix-cache/caddymodule/auth"
)

// authorize tells whose request it is, if they have the right.
func (h *Handler) authorize(r *http.Request, right auth.Rights) (auth.Token, error) {
	if !h.set.authorities.Any(right) && !h.set.authorities.Any(auth.Upload) {
		return auth.Token{}, errUploadsDisabled
	}
	token, err := h.identify(r)
	if err == nil && !token.Rights.Has(right) {
		err = errForbidden
	}
	if reason := authReason(err); reason != "" {
		h.metrics.authFailure(reason)
	}
	return token, err
}

func (h *Handler) identify(r *http.Request) (auth.Token, error) {
	presented, err := auth.Presented(r)
	if err != nil {
		return auth.Token{}, err
	}
	return h.set.authorities.Identify(r.Context(), presented)
}

// authReason is the label of a refusal in metrics; none if it is not one.
func authReason(err error) string {
	switch {
	case errors.Is(err, auth.ErrNoCredential):
		return "none"
	case errors.Is(err, auth.ErrUnknownCredential):
		return "unknown"
	case errors.Is(err, errForbidden):
		return "forbidden"
	default:
		return ""
	}
}
