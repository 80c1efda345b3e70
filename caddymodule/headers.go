package caddymodule

import (
	"fmt"
	"net/http"
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

// cacheStatus is the Cache-Status (RFC 9211) of a file that was found.
func cacheStatus(result cache.Result) string {
	switch result {
	case cache.Memory:
		return "nix-cache; hit; detail=memory"
	case cache.Disk:
		return "nix-cache; hit; detail=disk"
	case cache.Collapsed:
		return "nix-cache; fwd=miss; collapsed"
	case cache.Bypass:
		return "nix-cache; fwd=bypass"
	default:
		return "nix-cache; fwd=miss; fwd-status=200; stored"
	}
}

// absentStatus is the Cache-Status of a file that is not there.
func absentStatus(result cache.Result) string {
	switch result {
	case cache.Negative, cache.Stale:
		return "nix-cache; hit; detail=" + result.String()
	case cache.Collapsed:
		return "nix-cache; fwd=miss; collapsed"
	case cache.Bypass:
		return "nix-cache; fwd=bypass; fwd-status=404"
	default:
		return "nix-cache; fwd=miss; fwd-status=404"
	}
}
