package caddymodule

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/caddyserver/caddy/v2"

	"github.com/stevedores-org/nix-cache/caddymodule/nix"
)

func init() {
	caddy.RegisterModule(adminAPI{})
}

// adminAPI adds to Caddy's admin endpoint
//
//	POST /nix-cache/forget {"cache": "<name>", "paths": ["<hash>.narinfo", …]}
//
// which has the caches of that name, and others over the same origin, drop what
// they keep of these files, as an upload through them does: for whoever has
// changed them at the origin.
type adminAPI struct{}

// CaddyModule returns the Caddy module information.
func (adminAPI) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "admin.api.nix_cache",
		New: func() caddy.Module { return new(adminAPI) },
	}
}

// Provision has the admin endpoint show our metrics even under a config that
// fails before it gets to a handler: Caddy then keeps the handlers of the config
// in force, but shows the registry of the one that failed.
func (adminAPI) Provision(ctx caddy.Context) error {
	return metrics.register(ctx.GetMetricsRegistry())
}

const forgetPath = "/nix-cache/forget"

// Routes returns the routes of the admin endpoint.
func (adminAPI) Routes() []caddy.AdminRoute {
	return []caddy.AdminRoute{{Pattern: forgetPath, Handler: caddy.AdminHandlerFunc(serveForget)}}
}

// forgetRequest is the body of the request.
type forgetRequest struct {
	Cache string   `json:"cache"`
	Paths []string `json:"paths"`
}

const maxForgetRequest = 4 << 20 // bytes

func serveForget(w http.ResponseWriter, r *http.Request) error {
	if r.Method != http.MethodPost {
		return caddy.APIError{HTTPStatus: http.StatusMethodNotAllowed, Err: errors.New("forget: expected POST")}
	}
	var req forgetRequest
	body := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxForgetRequest))
	body.DisallowUnknownFields()
	if err := body.Decode(&req); err != nil {
		return caddy.APIError{HTTPStatus: http.StatusBadRequest, Err: fmt.Errorf("forget: %w", err)}
	}
	paths := make([]nix.CachePath, len(req.Paths))
	for i, text := range req.Paths {
		var err error
		if paths[i], err = nix.ParseCachePath(text); err != nil {
			return caddy.APIError{HTTPStatus: http.StatusBadRequest, Err: fmt.Errorf("forget: %w", err)}
		}
	}
	if !running.forget(req.Cache, paths) {
		return caddy.APIError{HTTPStatus: http.StatusNotFound, Err: fmt.Errorf("forget: there is no cache of the name %q", req.Cache)}
	}
	w.Header().Set("Content-Type", "application/json")
	return json.NewEncoder(w).Encode(map[string]int{"forgotten": len(paths)})
}

var (
	_ caddy.AdminRouter = adminAPI{}
	_ caddy.Provisioner = adminAPI{}
)
