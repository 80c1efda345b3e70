package caddymodule

import (
	"context"
	"errors"
	"io/fs"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/stevedores-org/nix-cache/caddymodule/auth"
	"github.com/stevedores-org/nix-cache/caddymodule/auth/oidc"
	"github.com/stevedores-org/nix-cache/caddymodule/cache"
	"github.com/stevedores-org/nix-cache/caddymodule/nix"
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
		return http.StatusUnauthorized, "this needs a token: put it as the password into the netrc file of Nix or into the URL, or send it as Bearer"
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
		return http.StatusBadGateway, "the cache's storage has a damaged copy of this file; push the package again"
	case errors.As(err, &busy):
		return http.StatusServiceUnavailable, "the cache is busy; try again in a few seconds"
	case errors.Is(err, errUploadsBusy):
		return http.StatusServiceUnavailable, "too many uploads are under way; try again in a few seconds"
	case errors.Is(err, errStopping):
		return http.StatusServiceUnavailable, "the cache is being restarted; try again"
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
	if a.cut() {
		err = errStopping
	}
	status, line := statusOf(a.r.Method, err)
	if a.r.Context().Err() != nil && !a.cut() {
		status, line = statusClientGone, "the client has gone"
	}
	refused := isRefusal(status, err)
	failed := status >= http.StatusInternalServerError && !refused
	if failed && h.answersAbsent(a, err) {
		a.w.Header().Set("Cache-Status", h.statuses.unavailable)
		status, line = http.StatusNotFound, "not known to be in this cache, whose storage can't be reached"
		h.metrics.lookup(a.kind, a.r.Method, resultUnavailable)
	}
	switch {
	case failed:
		h.failures.note(line, failure{a.r.Method, a.r.URL.Path, status, err})
	case refused, !a.reads():
		h.logRefused(a, status, err)
	}
	h.setFailureHeaders(a, status, err)
	h.countFailure(a, status, err)
	a.text(status, line)
}

func (h *Handler) setFailureHeaders(a *answer, status int, err error) {
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
		header.Set("Cache-Status", h.statuses.absent[absent.Result])
	}
}

// answersAbsent reports whether a narinfo is answered as absent since the origin
// can't be asked for it: so the operator wants it, where a build should go on
// without the cache. One that is busy is not: it answers again in seconds, and
// clients remember an absence for an hour.
func (h *Handler) answersAbsent(a *answer, err error) bool {
	if !h.set.outageAbsent || !a.reads() || a.path.Kind() != nix.KindNARInfo {
		return false
	}
	return errors.As(err, new(*origin.UnavailableError)) || errors.As(err, new(*origin.RefusedError)) ||
		errors.Is(err, context.DeadlineExceeded)
}

// resultUnavailable and resultRefused are results of look-ups that were not
// made.
const (
	resultUnavailable = "unavailable"
	resultRefused     = "refused"
)

// countFailure has the duration of a failed read of a file counted.
func (h *Handler) countFailure(a *answer, status int, err error) {
	result := resultRefused
	var absent *cache.AbsentError
	switch {
	case !a.reads() || status == statusClientGone:
		return
	case errors.As(err, &absent):
		result = h.metrics.absent(a.kind, a.r.Method, absent.Result)
	case status != http.StatusUnauthorized && status != http.StatusForbidden:
		result = resultUnavailable
	}
	a.seconds = func() prometheus.Observer { return h.metrics.seconds(a.kind, result) }
}

// isRefusal reports whether it is for who the client is that it gets no other
// answer, or since nobody may do this.
func isRefusal(status int, err error) bool {
	return status == http.StatusUnauthorized || status == http.StatusForbidden ||
		errors.Is(err, errUploadsDisabled) || errors.Is(err, auth.ErrThrottled)
}

// logRefused has the log say which client was refused, so that whoever tries tokens
// can be found: in a line for each write by a token that is known, and for all
// else, of which a client may make any number, in one a minute for those alike.
func (h *Handler) logRefused(a *answer, status int, err error) {
	client := a.client()
	if !a.writer && !h.refused.first(refusal{auth.Network(client), a.reads(), jobReason(err)}) {
		return
	}
	log := h.log.With("method", a.r.Method, "path", a.r.URL.Path, "status", status)
	if client.IsValid() {
		log = log.With("client", client.String())
	}
	log.Warn("refused", "error", err)
}

// jobReason is what is wrong with the token of a job; none if it is not one.
func jobReason(err error) string {
	if job := (*oidc.RefusedError)(nil); errors.As(err, &job) {
		return job.Reason
	}
	return ""
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
