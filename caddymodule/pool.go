package caddymodule

import (
	"context"
	"log/slog"
	"slices"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap/exp/zapslog"

	"github.com/stevedores-org/nix-cache/caddymodule/cache"
)

// caches are those in use, by key: a config that is loaded takes over the
// caches of the one it replaces, with all that is in them and under way.
var caches = caddy.NewUsagePool()

// pooledCache is a cache that outlives a config.
type pooledCache struct {
	key     string
	cache   *loggedCache
	names   nameSet // of the handlers that use or used it
	orphans *orphans
}

// loggedCache is a cache and its log, which ends after it.
type loggedCache struct {
	*cache.Cache
	quiet *quietLog
}

func newLoggedCache(dir string, limits cache.Limits, log *slog.Logger) *loggedCache {
	quiet := newQuietLog(log.Handler())
	return &loggedCache{cache.New(dir, limits, slog.New(quiet)), quiet}
}

// cacheKey tells caches apart: by directory, or where nothing is on disk by
// what is in memory.
func (h *Handler) cacheKey() string {
	if h.set.diskPath != "" {
		return h.set.diskPath
	}
	return h.origin.String()
}

// takeCache returns the cache of that key, made if need be; it opens nothing. One
// that is just being closed is taken back.
func takeCache(key string, s settings) *pooledCache {
	v, _, _ := caches.LoadOrNew(key, func() (caddy.Destructor, error) {
		log := slog.New(currentLog{}).With("cache", s.name)
		c := closing.takeBack(key)
		if c == nil {
			c = newLoggedCache(s.diskPath, s.limits(), log)
		}
		return &pooledCache{key: key, cache: c, orphans: newOrphans(log)}, nil
	})
	p := v.(*pooledCache)
	p.names.add(s.name)
	return p
}

// reserve takes room on the disk tier's file system for parts of uploads.
func (h *Handler) reserve(n int64) (release func(), err error) { return h.pooled.cache.Reserve(n) }

func (p *pooledCache) giveBack() error {
	_, err := caches.Delete(p.key)
	return err
}

// Destruct closes the cache. That waits for its users, which may be requests of
// the config that is on its way out, so nobody waits here: see closing.go.
func (p *pooledCache) Destruct() error {
	p.orphans.stop()
	closing.close(p.key, p.cache)
	return nil
}

// currentLog writes to the log of the config that is in force at the time: the
// one under which a cache was made may be closed long before the cache is.
type currentLog struct{ attrs []slog.Attr }

// noLevel is above all levels: our errors come from files and the network, and
// say what is wrong better than a stack trace does.
const noLevel = slog.Level(127)

func (currentLog) handler() slog.Handler {
	return zapslog.NewHandler(caddy.Log().Core(), zapslog.WithName(directive), zapslog.AddStacktraceAt(noLevel))
}

func (l currentLog) Enabled(ctx context.Context, level slog.Level) bool {
	return l.handler().Enabled(ctx, level)
}

func (l currentLog) Handle(ctx context.Context, r slog.Record) error {
	return l.handler().WithAttrs(l.attrs).Handle(ctx, r)
}

func (l currentLog) WithAttrs(attrs []slog.Attr) slog.Handler {
	return currentLog{slices.Concat(l.attrs, attrs)}
}

// WithGroup is not used.
func (l currentLog) WithGroup(string) slog.Handler { return l }
