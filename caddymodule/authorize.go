package caddymodule

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/stevedores-org/nix-cache/caddymodule/auth"
)

// throttle is of the process: a reload forgives nobody.
var throttle = new(auth.Throttle)

// authorizeRead tells nothing of a private cache, not even how long it takes to
// look a file up, to who may not read it.
func (h *Handler) authorizeRead(a *answer) (err error) {
	if h.Private {
		a.token, err = h.authorize(a.r, auth.Read)
	}
	return err
}

func (h *Handler) authorizeWrite(r *http.Request, right auth.Rights) (auth.Token, error) {
	if !h.set.authorities.Any(right) && !h.set.authorities.Any(auth.Upload) {
		return auth.Token{}, errUploadsDisabled
	}
	return h.authorize(r, right)
}

// authorize tells whose request it is, if they have the right. It makes those
// wait for the answer that present one unknown secret after the other.
func (h *Handler) authorize(r *http.Request, right auth.Rights) (auth.Token, error) {
	token, err := h.identify(r)
	switch {
	case err == nil && !token.Rights.Has(right):
		err = errForbidden
	case errors.Is(err, auth.ErrUnknownCredential):
		if throttled := h.slowDown(r); throttled != nil {
			err = throttled
		}
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
	token, err := h.set.authorities.Identify(r.Context(), presented)
	if err == nil {
		logUser(r, token.Name)
	}
	return token, err
}

// logUser has Caddy's access log name who made a request, as user_id.
func logUser(r *http.Request, name string) {
	if repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		repl.Set("http.auth.user.id", name)
	}
}

// slowDown ends when the client leaves or the server stops, at the latest.
func (h *Handler) slowDown(r *http.Request) error {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(h.serving, cancel)()
	return h.throttle.Failed(ctx, clientAddr(r))
}

// clientAddr is the client's address by Caddy's trusted_proxies; none if it is
// unknown, as on a Unix socket.
func clientAddr(r *http.Request) netip.Addr {
	text, ok := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string)
	if !ok {
		text, _, _ = net.SplitHostPort(r.RemoteAddr)
	}
	addr, _ := netip.ParseAddr(text)
	return addr
}

// untilShutdown returns a context that ends when the handler's server begins to
// shut down. Caddy's own ends when all requests have.
func untilShutdown(ctx caddy.Context) context.Context {
	server, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if !ok {
		return ctx
	}
	serving, cancel := context.WithCancel(context.WithoutCancel(ctx))
	server.RegisterOnShutdown(cancel)
	return serving
}

// authReason is the label of a refusal in metrics; none if it is not one.
func authReason(err error) string {
	switch {
	case errors.Is(err, auth.ErrNoCredential):
		return "none"
	case errors.Is(err, auth.ErrUnknownCredential):
		return "unknown"
	case errors.Is(err, auth.ErrThrottled):
		return "throttled"
	case errors.Is(err, errForbidden):
		return "forbidden"
	default:
		return ""
	}
}
