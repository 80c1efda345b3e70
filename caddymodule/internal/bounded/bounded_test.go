package bounded_test

import (
	"testing"

	"github.com/stevedores-org/nix-cache/caddymodule/internal/bounded"
)

// TestMapForgetsTheOldest: a key that is set again is no younger for it.
func TestMapForgetsTheOldest(t *testing.T) {
	m := bounded.NewMap[string, int](2)
	for i, key := range []string{"a", "b", "a", "c"} {
		before, ok := m.Set(key, i)
		if wantOK := i == 2; ok != wantOK || before != 0 {
			t.Errorf("Set(%q, %d) = %d, %t, want 0, %t", key, i, before, ok, wantOK)
		}
	}
	for key, want := range map[string]int{"a": -1, "b": 1, "c": 3, "d": -1} {
		got, ok := m.Get(key)
		if !ok {
			got = -1
		}
		if got != want {
			t.Errorf("Get(%q) = %d, want %d", key, got, want)
		}
	}
}
