package caddymodule

import (
	"fmt"
	"net/http"
	"regexp"
	"time"

	"github.com/stevedores-org/nix-cache/caddymodule/cache"
	"github.com/stevedores-org/nix-cache/caddymodule/nix"
)

// contentTypes are ours, never what an uploader said.
var contentTypes = [...]string{
	nix.KindNARInfo:     "text/x-nix-narinfo",
	nix.KindNAR:         "application/x-nix-nar",
	nix.KindListing:     "application/json",
	nix.KindLog:         "text/plain; charset=utf-8",
	nix.KindRealisation: "application/json",
	nix.KindBuildTrace:  "application/json",
	nix.KindDebugInfo:   "application/json",
}

// setFileHeaders sets what every answer with a file has, Cache-Status included.
// The values share one allocation, but not with other answers: Caddy's header
// directive changes them in place.
func (h *Handler) setFileHeaders(header http.Header, kind nix.Kind, info cache.Info, status string) {
	values := [...]string{contentTypes[kind], "nosniff", `"` + info.Tag + `"`, "bytes", h.cacheControl(kind), status}
	header["Content-Type"] = values[0:1:1]
	header["X-Content-Type-Options"] = values[1:2:2]
	header["Etag"] = values[2:3:3]
	header["Accept-Ranges"] = values[3:4:4]
	header["Cache-Control"] = values[4:5:5]
	header["Cache-Status"] = values[5:6:6]
	if kind == nix.KindLog { // whoever could upload it, it runs nothing in a browser
		header.Set("Content-Security-Policy", "sandbox")
	}
}

func (h *Handler) cacheControl(kind nix.Kind) string {
	switch {
	case kind == nix.KindNARInfo:
		return h.narinfoControl
	case kind != nix.KindNAR:
		return h.scope() + ", no-cache" // an upload may replace it
	case h.Private:
		return "private, max-age=31536000, immutable, no-transform"
	default:
		return "public, max-age=31536000, immutable, no-transform"
	}
}

// scope says who may keep an answer: any proxy, or its client alone.
func (h *Handler) scope() string {
	if h.Private {
		return "private"
	}
	return "public"
}

func narinfoControl(scope string, maxAge time.Duration) string {
	return fmt.Sprintf("%s, max-age=%d, immutable", scope, int64(maxAge/time.Second))
}

// cacheStatuses are the values of Cache-Status (RFC 9211) of one cache. They are
// made beforehand, as each answer has one.
type cacheStatuses struct {
	found       []string // of files, by cache.Result
	absent      []string // of files that are not there, by cache.Result
	described   string   // of a file that the origin described without sending it
	unavailable string   // of an absence that stands for an origin that can't be asked
}

func newCacheStatuses(name string) cacheStatuses {
	cacheName := statusName(name)
	s := cacheStatuses{
		described:   cacheName + "; fwd=miss; fwd-status=200",
		unavailable: cacheName + "; fwd=miss; detail=unavailable",
	}
	for result := range cache.Results() {
		s.found = append(s.found, cacheName+foundStatus(result))
		s.absent = append(s.absent, cacheName+absentStatus(result))
	}
	return s
}

func foundStatus(result cache.Result) string {
	switch result {
	case cache.Memory, cache.Disk:
		return "; hit; detail=" + result.String()
	case cache.Collapsed:
		return "; fwd=miss; collapsed"
	case cache.Bypass:
		return "; fwd=bypass"
	default:
		return "; fwd=miss; fwd-status=200; stored"
	}
}

func absentStatus(result cache.Result) string {
	switch result {
	case cache.Negative, cache.Stale:
		return "; hit; detail=" + result.String()
	case cache.Collapsed:
		return "; fwd=miss; collapsed"
	case cache.Bypass:
		return "; fwd=bypass; fwd-status=404"
	default:
		return "; fwd=miss; fwd-status=404"
	}
}

// statusName is a cache's name as a token, or else as a string in quotes, of the
// forms that RFC 8941 (sections 3.3.3 and 3.3.4) has for them.
func statusName(name string) string {
	if tokenName.MatchString(name) {
		return name
	}
	safe := []byte{'"'}
	for _, r := range name {
		switch {
		case r < ' ' || r > '~':
			r = '_'
		case r == '"' || r == '\\':
			safe = append(safe, '\\')
		}
		safe = append(safe, byte(r))
	}
	return string(append(safe, '"'))
}

var tokenName = regexp.MustCompile("^[A-Za-z*][-A-Za-z0-9!#$%&'*+.^_`|~:/]*$")
