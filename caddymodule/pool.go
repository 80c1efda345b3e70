package caddymodule

import (
	"log/slog"

	"github.com/caddyserver/caddy/v2"

	"github.com/stevedores-org/nix-cache/caddymodule/cache"
)

// caches are those in use, by key: a config that is loaded takes over the
// caches of the one it replaces, with all that is in them and under way.
var caches = caddy.NewUsagePool()

// pooledCache is a cache that outlives a config.
type pooledCache struct {
	key   string
	cache *cache.Cache
	names nameSet // of the handlers that use or used it
}

// cacheKey tells caches apart: by directory, or where nothing is on disk by
// what is in memory.
func (h *Handler) cacheKey() string {
	if h.set.diskPath != "" {
		return h.set.diskPath
	}
	return h.origin.String()
}

// takeCache returns the cache of that key, made if need be; it opens nothing.
func takeCache(key string, s settings, log *slog.Logger) *pooledCache {
	v, _, _ := caches.LoadOrNew(key, func() (caddy.Destructor, error) {
		return &pooledCache{key: key, cache: cache.New(s.diskPath, s.limits(), log)}, nil
	})
	p := v.(*pooledCache)
	p.names.add(s.name)
	return p
}

func (p *pooledCache) giveBack() error {
	_, err := caches.Delete(p.key)
	return err
}

// Destruct closes the cache. That waits for readers of running fills, which may
// belong to requests of the config that is on its way out, so nobody waits here.
func (p *pooledCache) Destruct() error {
	go p.cache.Close()
	return nil
}
