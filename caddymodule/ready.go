package caddymodule

import (
	"context"
	"errors"
	"io/fs"
	"net/http"
	"time"
)

// readyTimeout is how long the origin may take to answer.
const readyTimeout = 5 * time.Second

// serveReady asks the origin for a file. That it lacks the file is an answer.
func (h *Handler) serveReady(a *answer) {
	ctx, cancel := context.WithTimeout(a.r.Context(), readyTimeout)
	defer cancel()
	_, err := h.origin.Stat(ctx, "nix-cache-info")
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		h.healthAnswer(a, http.StatusOK, health{Status: "ok", Detail: "the origin answers"})
		return
	}
	h.log.Warn("not ready: the origin does not answer", "error", err)
	h.healthAnswer(a, http.StatusServiceUnavailable, health{Status: "unavailable", Detail: "the origin does not answer"})
}
