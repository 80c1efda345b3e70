package dir_test

import (
	"testing"

	"github.com/stevedores-org/nix-cache/caddymodule/origin"
	"github.com/stevedores-org/nix-cache/caddymodule/origin/dir"
	"github.com/stevedores-org/nix-cache/caddymodule/origin/origintest"
)

func TestConforms(t *testing.T) {
	origintest.Run(t, func(t *testing.T) origin.Origin { return dir.New(t.TempDir() + "/cache") })
}
