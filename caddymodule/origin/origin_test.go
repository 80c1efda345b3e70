package origin_test

import (
	"testing"

	"github.com/stevedores-org/nix-cache/caddymodule/origin"
)

// TestErrorsOfNoPath: a list is of no file, so its errors name none.
func TestErrorsOfNoPath(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want string
	}{
		{&origin.BusyError{Op: "list"}, "list: not asked: too many requests wait for the origin"},
		{&origin.BusyError{Op: "open", Path: "a"}, "open a: not asked: too many requests wait for the origin"},
	} {
		if got := tt.err.Error(); got != tt.want {
			t.Errorf("%q, want %q", got, tt.want)
		}
	}
}
