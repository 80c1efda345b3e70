package caddymodule

import (
	"context"
	"errors"
	"io/fs"
	"net/http"

	"github.com/stevedores-org/nix-cache/caddymodule/auth"
	"github.com/stevedores-org/nix-cache/caddymodule/auth/oidc"
	"github.com/stevedores-org/nix-cache/caddymodule/cache"
	"github.com/stevedores-org/nix-cache/caddymodule/origin"
	"github.com/stevedores-org/nix-cache/caddymodule/upload"
)

var (
	errUploadsDisabled = errors.New("no upload credential is configured")
	errForbidden       = errors.New("the credential lacks the right")
)

// badPathError is a write to a path that a binary cache does not have.
type badPathError struct{ error }

// badQueryError is a DELETE with a query that says not clearly what it wants.
type badQueryError struct{ error }

// statusClientGone is nginx's 499, as Caddy logs it too: nobody gets to see it.
const statusClientGone = 499

// retryAfter is when clients are told to come back, in seconds.
const retryAfter = "5"

var rejectedStatus = map[upload.Reason]int{
	upload.Malformed:        http.StatusBadRequest,
	upload.Untrusted:        http.StatusBadRequest,
	upload.Incomplete:       http.StatusBadRequest,
	upload.NARMissing:       http.StatusConflict,
	upload.Divergent:        http.StatusConflict,
	upload.ReferenceMissing: http.StatusConflict,
	upload.Referenced:       http.StatusConflict,
	upload.TooLarge:         http.StatusRequestEntityTooLarge,
	upload.Mismatch:         http.StatusUnprocessableEntity,
}

// hints say how to do by HTTP what a refusal advises or rules out.
var hints = map[upload.Reason]string{
	upload.Referenced: ", or insist with ?force=true",
}

// statusOf is the one place where an error becomes a status, and the line that
// the client's user gets to see. What is not the client's doing tells nothing
// of the inside: that is in the log.
func statusOf(method string, err error) (status int, line string) {
	var (
		rejected    *upload.RejectedError
		badPath     *badPathError
		badQuery    *badQueryError
		unavailable *origin.UnavailableError
		badJob      *oidc.RefusedError
		issuerDown  *oidc.UnavailableError
		damaged     *cache.DamagedError
		busy        *origin.BusyError
	)
	switch {
	case errors.Is(err, errUploadsDisabled):
		return http.StatusServiceUnavailable, "Uploads disabled"
	case errors.Is(err, auth.ErrNoCredential):
		return http.StatusUnauthorized, "this needs a token: as the password of Basic, or as Bearer"
	case errors.As(err, &issuerDown):
		return http.StatusServiceUnavailable, "the token can't be checked just now: its issuer does not answer; try again later"
	case errors.As(err, &badJob):
		return http.StatusForbidden, badJob.Reason
	case errors.Is(err, auth.ErrUnknownCredential):
		return http.StatusForbidden, "the token is not known here"
	case errors.Is(err, auth.ErrThrottled):
		return http.StatusServiceUnavailable, "too many wrong tokens came from this address; check the token, and try again later"
	case errors.Is(err, errForbidden):
		return http.StatusForbidden, "the token does not have the right to do this"
	case errors.As(err, &badPath):
		return http.StatusBadRequest, badPath.Error()
	case errors.As(err, &badQuery):
		return http.StatusBadRequest, badQuery.Error()
	case errors.As(err, &rejected):
		return rejectedStatus[rejected.Reason], rejected.Text + hints[rejected.Reason]
	case errors.Is(err, fs.ErrNotExist):
		return http.StatusNotFound, "not in this cache"
	case errors.As(err, &damaged):
		return http.StatusBadGateway, "the cache's storage has a damaged copy of this file; have it deleted and upload it again"
	case errors.As(err, &busy):
		return http.StatusServiceUnavailable, "the cache is busy; try again in a few seconds"
	case errors.Is(err, context.Canceled): // the fill's, when the cache closes: not this client's
		return unavailableStatus(method, false), "the cache is being restarted; try again"
	case errors.As(err, &unavailable):
		return unavailableStatus(method, unavailable.Timeout), "the cache can't reach its storage; try again later"
	case errors.Is(err, context.DeadlineExceeded):
		return http.StatusGatewayTimeout, "the cache's storage did not answer in time; try again later"
	default:
		return http.StatusBadGateway, "the cache's storage refuses to answer; its operator finds the reason in the log"
	}
}

func unavailableStatus(method string, timeout bool) int {
	read := method == http.MethodGet || method == http.MethodHead
	switch {
	case timeout:
		return http.StatusGatewayTimeout
	case read:
		return http.StatusServiceUnavailable
	default:
		return http.StatusBadGateway
	}
}

// fail answers with an error, and logs what its operator should know.
func (h *Handler) fail(a *answer, err error) {
	status, line := statusOf(a.r.Method, err)
	if a.r.Context().Err() != nil {
		status, line = statusClientGone, "the client has gone"
	}
	header := a.w.Header()
	switch {
	case status == http.StatusUnauthorized:
		header.Add("WWW-Authenticate", `Basic realm="`+realm(h.set.name)+`", charset="UTF-8"`)
		header.Add("WWW-Authenticate", `Bearer realm="`+realm(h.set.name)+`"`)
	case status == http.StatusServiceUnavailable && !errors.Is(err, errUploadsDisabled), status == http.StatusGatewayTimeout:
		header.Set("Retry-After", retryAfter)
	}
	var absent *cache.AbsentError
	if errors.As(err, &absent) {
		h.metrics.lookup(a.kind, absent.Result)
		header.Set("Cache-Status", absentStatus(absent.Result))
	}
	h.logFailure(a, status, err)
	a.text(status, line)
}

// logFailure has the log say which client was refused, so that whoever tries
// tokens can be found.
func (h *Handler) logFailure(a *answer, status int, err error) {
	log := h.log.With("method", a.r.Method, "path", a.r.URL.Path, "status", status)
	switch {
	case status >= http.StatusInternalServerError && !errors.Is(err, errUploadsDisabled) && !errors.Is(err, auth.ErrThrottled):
		log.Error("request failed", "error", err)
	case a.r.Method == http.MethodPut || a.r.Method == http.MethodDelete:
		if client := clientAddr(a.r); client.IsValid() {
			log = log.With("client", client.String())
		}
		log.Warn("refused", "error", err)
	}
}

// realm keeps a name from ending the quotes it stands in.
func realm(name string) string {
	safe := []byte(name)
	for i, c := range safe {
		if c < ' ' || c > '~' || c == '"' || c == '\\' {
			safe[i] = '_'
		}
	}
	return string(safe)
}
