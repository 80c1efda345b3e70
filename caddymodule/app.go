package caddymodule

import (
	"fmt"

	"github.com/caddyserver/caddy/v2"

	"github.com/stevedores-org/nix-cache/caddymodule/origin/r2"
)

const appID = "nix_cache"

func init() {
	caddy.RegisterModule(App{})
}

// App starts the caches of a config's handlers: a handler itself is not told
// whether its config is to run, or was only to be validated. It has no settings
// and need not be written in a config.
type App struct {
	handlers []*Handler
	caches   map[*pooledCache]settings
	buckets  map[*pooledCache][]*r2.Origin // that uploads may have left orphans in
}

// CaddyModule returns the Caddy module information.
func (App) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  appID,
		New: func() caddy.Module { return new(App) },
	}
}

// use has a handler started, and its cache with its limits.
func (a *App) use(h *Handler) error {
	p, s := h.pooled, h.set
	a.handlers = append(a.handlers, h)
	if a.caches == nil {
		a.caches = make(map[*pooledCache]settings)
	}
	other, taken := a.caches[p]
	if taken && other.limits() != s.limits() {
		return fmt.Errorf("disk, memory: caches %q and %q share %s, so give both the same sizes", other.name, s.name, p.key)
	}
	a.caches[p] = s
	return nil
}

// clean has the orphans of uploads to a bucket removed.
func (a *App) clean(p *pooledCache, bucket *r2.Origin) {
	if a.buckets == nil {
		a.buckets = make(map[*pooledCache][]*r2.Origin)
	}
	a.buckets[p] = append(a.buckets[p], bucket)
}

// Start opens the tiers, or applies what has changed since the last config.
func (a *App) Start() error {
	for p, s := range a.caches {
		p.cache.SetLimits(s.limits())
		p.cache.Start()
		p.orphans.watch(a.buckets[p])
	}
	for _, h := range a.handlers {
		h.logStart()
		h.ready.watch()
	}
	return nil
}

// Stop does nothing: the caches end when the last handler gives them back.
func (a *App) Stop() error { return nil }

var _ caddy.App = (*App)(nil)
