package caddymodule

import (
	"testing"

	"github.com/stevedores-org/nix-cache/caddymodule/cache"
)

// TestCacheStatusBeginsWithTheName: whatever it is, in a form that proxies parse.
func TestCacheStatusBeginsWithTheName(t *testing.T) {
	for name, want := range map[string]string{
		"nix-cache":    `nix-cache; hit; detail=memory`,
		"edge/berlin":  `edge/berlin; hit; detail=memory`,
		"my cache":     `"my cache"; hit; detail=memory`,
		"2nd":          `"2nd"; hit; detail=memory`,
		"a; hit, b":    `"a; hit, b"; hit; detail=memory`,
		`say "so" \o/`: `"say \"so\" \\o/"; hit; detail=memory`,
		"büro\n":       `"b_ro_"; hit; detail=memory`,
	} {
		if got := newCacheStatuses(name).found[cache.Memory]; got != want {
			t.Errorf("%q: %s, want %s", name, got, want)
		}
	}
}
