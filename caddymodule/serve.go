package caddymodule

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/stevedores-org/nix-cache/caddymodule/nix"
)

// ServeHTTP answers a request. Paths are relative to where the handler is
// mounted, and decoded.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	t := route(r.URL.Path)
	if t.serve == nil && h.PassThru {
		return next.ServeHTTP(w, r)
	}
	a := &answer{w: w, r: r, kind: t.kind, path: t.path, begun: time.Now()}
	defer h.count(a) // also one that is aborted
	h.serve(a, t)
	return nil
}

func (h *Handler) count(a *answer) {
	h.metrics.request(requestLabels{a.kind, methodLabel(a.r.Method), a.status})
	if a.seconds != nil {
		a.seconds().Observe(time.Since(a.begun).Seconds())
	}
}

// target is what a path stands for.
type target struct {
	kind  string                  // label in metrics
	path  nix.CachePath           // of a file of the cache
	serve func(*Handler, *answer) // answers GET and HEAD; nil: there is no such path
	err   error                   // why not
}

// allow returns the methods that are possible, as in Allow. Where a file could
// be, clients are told what is wrong with the path, not with the method.
func (t target) allow() string {
	switch {
	case t.serve != nil && t.path.IsZero():
		return "GET, HEAD"
	case t.serve == nil, t.path.Kind() == nix.KindNARInfo, t.path.Kind() == nix.KindNAR:
		return "GET, HEAD, PUT, DELETE"
	default:
		return "GET, HEAD, PUT"
	}
}

func route(urlPath string) target {
	switch path := strings.TrimPrefix(urlPath, "/"); path {
	case "", "nix-cache-info":
		return target{kind: "info", serve: (*Handler).serveInfo}
	case "health":
		return target{kind: "health", serve: (*Handler).serveHealth}
	case "health/ready":
		return target{kind: "health", serve: (*Handler).serveReady}
	default:
		p, err := nix.ParseCachePath(path)
		if err != nil {
			return target{kind: "other", err: err}
		}
		return target{kind: p.Kind().String(), path: p, serve: (*Handler).get}
	}
}

func (h *Handler) serve(a *answer, t target) {
	switch allow := t.allow(); a.r.Method {
	case http.MethodGet, http.MethodHead:
		if t.serve == nil {
			a.text(http.StatusNotFound, "there is no such path in a Nix binary cache")
			return
		}
		if !t.path.IsZero() {
			if err := h.authorizeRead(a); err != nil {
				h.fail(a, err)
				return
			}
		}
		t.serve(h, a)
	case http.MethodPut, http.MethodDelete:
		if !strings.Contains(allow, a.r.Method) {
			a.notAllowed(allow)
			return
		}
		h.write(a, t)
	default:
		a.notAllowed(allow)
	}
}

// methodLabel keeps strangers from making up labels.
func methodLabel(method string) string {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPut, http.MethodDelete:
		return method
	default:
		return "other"
	}
}

const infoContentType = "text/x-nix-cache-info"

// serveInfo answers always, whatever state the origin is in: a client that does
// not get this file gives the cache up, or tries to create it.
func (h *Handler) serveInfo(a *answer) {
	header := a.w.Header()
	header.Set("Content-Type", infoContentType)
	header.Set("Cache-Control", "public, max-age=3600")
	a.body(http.StatusOK, fmt.Sprintf("StoreDir: %s\nWantMassQuery: 1\nPriority: %d\n", nix.StoreDir, h.set.priority))
}

// health is the answer of /health and /health/ready.
type health struct {
	Status    string    `json:"status"`
	Cache     string    `json:"cache"`
	Timestamp time.Time `json:"timestamp"`
	Detail    string    `json:"detail,omitempty"`
}

func (h *Handler) serveHealth(a *answer) {
	h.healthAnswer(a, http.StatusOK, health{Status: "ok"})
}

func (h *Handler) healthAnswer(a *answer, status int, body health) {
	body.Cache, body.Timestamp = h.set.name, time.Now().UTC()
	text, err := json.Marshal(body)
	if err != nil {
		a.text(http.StatusInternalServerError, "internal error")
		return
	}
	header := a.w.Header()
	header.Set("Content-Type", "application/json")
	header.Set("Cache-Control", "no-store")
	a.body(status, string(text)+"\n")
}
