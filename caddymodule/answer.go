package caddymodule

import (
	"context"
	"io"
	"net/http"
	"net/netip"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/stevedores-org/nix-cache/caddymodule/auth"
	"github.com/stevedores-org/nix-cache/caddymodule/nix"
	"github.com/stevedores-org/nix-cache/caddymodule/origin"
)

// answer is a response in the making, and what is to be counted of it.
type answer struct {
	w      http.ResponseWriter
	r      *http.Request
	kind   string        // label in metrics
	path   nix.CachePath // of the file that is asked for, if it is one
	writer bool          // a PUT or DELETE, by a token that is known
	status int
	begun  time.Time
	from   netip.Addr // once client was called
	asking asking     // once context was
	token  auth.Token // of whoever reads a private cache

	seconds func() prometheus.Observer // of the answer's duration; nil: of none
}

// reads reports whether a file is asked for.
func (a *answer) reads() bool {
	return !a.path.IsZero() && (a.r.Method == http.MethodGet || a.r.Method == http.MethodHead)
}

// client is the address of whoever asks; see clientAddr.
func (a *answer) client() netip.Addr {
	if !a.from.IsValid() {
		a.from = clientAddr(a.r)
	}
	return a.from
}

// context is the request's, for what may have to ask the origin.
func (a *answer) context() context.Context {
	if a.asking.r != a.r { // else it is in use already
		a.asking = asking{a.r.Context(), a.r}
	}
	return &a.asking
}

// asking is a request's context that makes an origin.Asker when it is asked for
// one: a read that hits needs none.
type asking struct {
	context.Context
	r *http.Request
}

func (c *asking) Value(key any) any {
	if key == origin.AskerKey {
		return origin.Asker{Client: auth.Site(clientAddr(c.r))}
	}
	return c.Context.Value(key)
}

// body answers with a short text, whose headers but length are set.
func (a *answer) body(status int, text string) {
	a.status = status
	header := a.w.Header()
	header.Set("Content-Length", strconv.Itoa(len(text)))
	header.Set("X-Content-Type-Options", "nosniff")
	a.w.WriteHeader(status)
	if a.r.Method != http.MethodHead {
		io.WriteString(a.w, text)
	}
}

// text answers with one line for a person. Clients show it to their user.
func (a *answer) text(status int, line string) {
	header := a.w.Header()
	header.Set("Content-Type", "text/plain; charset=utf-8")
	header.Set("Cache-Control", "no-store")
	a.body(status, line+"\n")
}

func (a *answer) notAllowed(allow string) {
	a.w.Header().Set("Allow", allow)
	a.text(http.StatusMethodNotAllowed, a.r.Method+" is not possible here; possible: "+allow)
}
