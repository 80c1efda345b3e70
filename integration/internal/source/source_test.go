package source

import (
	"bytes"
	"encoding/json"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const (
	root   = "../../.." // of the checkout
	module = "github.com/stevedores-org/nix-cache"
)

// run returns what a command in the checkout wrote, its complaints included.
func run(t *testing.T, command string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), command, args...)
	cmd.Dir = root
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func TestGofmt(t *testing.T) {
	out, err := run(t, "gofmt", "-l", "caddymodule", "cmd", "integration")
	if err != nil || out != "" {
		t.Errorf("not formatted (%v):\n%s", err, out)
	}
}

func TestVet(t *testing.T) {
	if out, err := run(t, "go", "vet", "./..."); err != nil {
		t.Errorf("%v:\n%s", err, out)
	}
}

// ownImports are the packages of this module that each package may import
// outside of its tests. The top package, the command and the integration tests
// may import all.
var ownImports = map[string][]string{
	"caddymodule/auth":                nil,
	"caddymodule/auth/oidc":           {"caddymodule/auth"},
	"caddymodule/cache":               {"caddymodule/cache/disk", "caddymodule/nix", "caddymodule/origin"},
	"caddymodule/cache/disk":          {"caddymodule/internal/stall"},
	"caddymodule/internal/content":    {"caddymodule/internal/decompress", "caddymodule/nix"},
	"caddymodule/internal/decompress": {"caddymodule/nix"},
	"caddymodule/internal/bounded":    nil,
	"caddymodule/internal/durable":    nil,
	"caddymodule/nix":                 nil,
	"caddymodule/nix/nixtest":         {"caddymodule/nix"},
	"caddymodule/origin":              nil,
	"caddymodule/origin/dir":          {"caddymodule/internal/durable", "caddymodule/origin"},
	"caddymodule/origin/guard":        {"caddymodule/origin"},
	"caddymodule/origin/limit":        {"caddymodule/origin"},
	"caddymodule/origin/origintest":   {"caddymodule/origin"},
	"caddymodule/origin/r2":           {"caddymodule/internal/stall", "caddymodule/origin", "caddymodule/origin/limit"},
	"caddymodule/maintain":            {"caddymodule/internal/content", "caddymodule/nix", "caddymodule/origin", "caddymodule/upload"},
	"caddymodule/upload":              {"caddymodule/internal/content", "caddymodule/internal/decompress", "caddymodule/internal/fair", "caddymodule/nix", "caddymodule/origin"},
}

// confined are the modules that few packages may import outside of their tests.
var confined = map[string][]string{
	"github.com/caddyserver/":           {"caddymodule", "cmd/caddy"},
	"github.com/prometheus/":            {"caddymodule"},
	"github.com/schollz/progressbar/":   {"caddymodule"},
	"github.com/spf13/cobra":            {"caddymodule"},
	"go.uber.org/zap":                   {"caddymodule"},
	"github.com/aws/":                   {"caddymodule/origin/r2"},
	"github.com/dgraph-io/":             {"caddymodule/cache"},
	"github.com/go-jose/":               {"caddymodule/auth/oidc"},
	"zombiezen.com/go/nix":              nil,
	module + "/integration":             nil,
	module + "/caddymodule/nix/nixtest": nil,
}

// TestImports: imports point down, and the outside world stays at the edges.
func TestImports(t *testing.T) {
	for path, imports := range packageImports(t) {
		for _, imported := range imports {
			if own, ok := strings.CutPrefix(imported, module+"/"); ok && !mayImportOwn(t, path, own) {
				t.Errorf("%s imports %s", path, own)
			}
			for prefix, users := range confined {
				if strings.HasPrefix(imported, prefix) && !slices.Contains(users, path) {
					t.Errorf("%s imports %s", path, imported)
				}
			}
		}
	}
}

// packageImports returns the imports of every package that is part of the
// product.
func packageImports(t *testing.T) map[string][]string {
	t.Helper()
	out, err := run(t, "go", "list", "-json=ImportPath,Imports", "./caddymodule/...", "./cmd/...")
	if err != nil {
		t.Fatalf("%v:\n%s", err, out)
	}
	packages := map[string][]string{}
	for dec := json.NewDecoder(bytes.NewReader([]byte(out))); ; {
		var p struct {
			ImportPath string
			Imports    []string
		}
		if err := dec.Decode(&p); err == io.EOF {
			return packages
		} else if err != nil {
			t.Fatal(err)
		}
		packages[strings.TrimPrefix(p.ImportPath, module+"/")] = p.Imports
	}
}

func mayImportOwn(t *testing.T, path, own string) bool {
	if path == "caddymodule" || path == "cmd/caddy" {
		return true
	}
	allowed, known := ownImports[path]
	if !known {
		t.Errorf("%s is not in the table of who may import whom", path)
	}
	return slices.Contains(allowed, own)
}
