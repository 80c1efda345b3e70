package caddymodule

import (
	"fmt"
	"net/http"
	"time"

	"github.com/stevedores-org/nix-cache/caddymodule/cache"
	"github.com/stevedores-org/nix-cache/caddymodule/nix"
)

// contentTypes are ours, never what an uploader said.
var contentTypes = map[nix.Kind]string{
	nix.KindNARInfo: "text/x-nix-narinfo",
	nix.KindNAR:     "application/x-nix-nar",
}

// setFileHeaders sets what every answer with a file has.
func (h *Handler) setFileHeaders(header http.Header, kind nix.Kind, info cache.Info) {
	header.Set("Content-Type", contentTypes[kind])
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("ETag", `"`+info.Tag+`"`)
	header.Set("Accept-Ranges", "bytes")
	header.Set("Cache-Control", h.cacheControl(kind))
}

func (h *Handler) cacheControl(kind nix.Kind) string {
	if kind == nix.KindNARInfo {
		return fmt.Sprintf("public, max-age=%d, immutable", int64(h.set.narinfoMaxAge/time.Second))
	}
	return "public, max-age=31536000, immutable, no-transform"
}

// cacheStatus is the Cache-Status (RFC 9211) of a file that was found.
func cacheStatus(result cache.Result) string {
	switch result {
	case cache.Memory, cache.Disk:
		return "nix-cache; hit; detail=" + result.String()
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
