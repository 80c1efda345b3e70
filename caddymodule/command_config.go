package caddymodule

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/stevedores-org/nix-cache/caddymodule/nix"
	"github.com/stevedores-org/nix-cache/caddymodule/origin"
)

// cacheFlags select a cache of a config.
type cacheFlags struct{ config, adapter, cache string }

func (f *cacheFlags) register(c *cobra.Command) {
	c.Flags().StringVarP(&f.config, "config", "c", "", "configuration file (default: Caddyfile in this directory)")
	c.Flags().StringVarP(&f.adapter, "adapter", "a", "", "name of the config adapter, if it is not a Caddyfile or JSON")
	c.Flags().StringVar(&f.cache, "cache", "", "name of the cache, where the config has several")
}

// storedCache is what the commands need of a configured cache.
type storedCache struct {
	name    string
	origin  origin.Origin
	trusted nix.PublicKeys
	admin   string // the address of the admin endpoint of servers of this config
	handler *Handler
}

// load reads the config, and finds the cache. Placeholders are resolved as when
// a server loads it, but for those of settings that don't matter here.
func (f *cacheFlags) load(log *slog.Logger) (*storedCache, error) {
	config, file, adapter, err := caddycmd.LoadConfig(f.config, f.adapter)
	if err != nil {
		return nil, oneLine(err)
	}
	if len(config) == 0 {
		return nil, errors.New("there is no config: give --config <Caddyfile>")
	}
	h, err := findCache(config, f.cache)
	if err != nil {
		return nil, err
	}
	h.log = log
	s, err := h.stored()
	if err != nil {
		return nil, fmt.Errorf("nix_cache: %w", err)
	}
	s.admin, err = caddycmd.DetermineAdminAPIAddress("", config, file, adapter)
	return s, err
}

// stored resolves what the commands need.
func (h *Handler) stored() (*storedCache, error) {
	v := values{repl: caddy.NewReplacer(), source: h.Source}
	s := &storedCache{name: v.text("name", h.Name, defaultName), handler: h}
	from := h.Origin.resolve(&v)
	s.trusted = h.resolveKeys(&v)
	if v.err != nil {
		return nil, v.err
	}
	var err error
	s.origin, err = from.open(h.log, nil)
	return s, h.Source.locate("origin", err)
}

// signWith returns the keys of sign_with.
func (s *storedCache) signWith() ([]nix.PrivateKey, error) {
	v := values{repl: caddy.NewReplacer(), source: s.handler.Source}
	keys := s.handler.resolveSignWith(&v, s.trusted)
	return keys, v.err
}

// findCache returns the handler of the cache of that name, or with "" of the only
// one there is. Handlers that agree in name, origin and keys are one cache.
func findCache(config []byte, name string) (*Handler, error) {
	byName, err := cachesOf(config)
	if err != nil {
		return nil, err
	}
	names := strings.Join(slices.Sorted(maps.Keys(byName)), ", ")
	if name == "" {
		if len(byName) > 1 {
			return nil, fmt.Errorf("the config has several caches: give --cache with one of %s", names)
		}
		for only := range byName {
			name = only
		}
	}
	switch found := byName[name]; {
	case len(byName) == 0:
		return nil, errors.New("the config has no nix_cache")
	case len(found) == 0:
		return nil, fmt.Errorf("the config has no cache of the name %q, but %s", name, names)
	case len(found) > 1:
		return nil, fmt.Errorf("the config has several caches of the name %q: give each a name of its own", name)
	default:
		return found[0], nil
	}
}

// cachesOf returns the handlers of a config by name, those that are one cache
// once.
func cachesOf(config []byte) (map[string][]*Handler, error) {
	var tree any
	if err := json.Unmarshal(config, &tree); err != nil {
		return nil, fmt.Errorf("read config: %w", err)
	}
	byName := make(map[string][]*Handler)
	for _, object := range nixCaches(tree) {
		text, err := json.Marshal(object)
		if err != nil {
			return nil, fmt.Errorf("read config: %w", err)
		}
		h := new(Handler)
		if err := json.Unmarshal(text, h); err != nil {
			return nil, fmt.Errorf("read config: nix_cache: %w", err)
		}
		v := values{repl: caddy.NewReplacer(), source: h.Source}
		name := v.text("name", h.Name, defaultName)
		if v.err != nil {
			return nil, v.err
		}
		if !slices.ContainsFunc(byName[name], h.sameCache) {
			byName[name] = append(byName[name], h)
		}
	}
	return byName, nil
}

func (h *Handler) sameCache(other *Handler) bool {
	return reflect.DeepEqual(h.Origin, other.Origin) && slices.Equal(h.TrustedPublicKeys, other.TrustedPublicKeys) &&
		slices.Equal(h.SignWith, other.SignWith)
}

// nixCaches returns the objects in a config that are our handlers, wherever
// other handlers may have them.
func nixCaches(tree any) (found []map[string]any) {
	switch node := tree.(type) {
	case map[string]any:
		if node["handler"] == directive {
			return []map[string]any{node}
		}
		for _, child := range node {
			found = append(found, nixCaches(child)...)
		}
	case []any:
		for _, child := range node {
			found = append(found, nixCaches(child)...)
		}
	}
	return found
}

// oneLine takes the line breaks out of an error of others.
func oneLine(err error) error {
	return errors.New(strings.Join(strings.Fields(err.Error()), " "))
}
