package integration

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// TestXcaddy: a Caddy from xcaddy has the handler, and it works.
func TestXcaddy(t *testing.T) {
	t.Parallel()
	binary := tempDir(t) + "/caddy"
	build := exec.CommandContext(t.Context(), checkout(t)+"/xcaddy.sh", "--output", binary)
	build.Env = append(os.Environ(), sharedBuildCache)
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("xcaddy.sh: %v\n%s", err, out)
	}
	wantHandler(t, binary)
	c := caddySetup{
		Command:   []string{binary},
		Caddyfile: globalOptions + site("http://localhost", cacheDirective(dirOrigin(t))),
	}.start(t)
	forEachNix(t, func(t *testing.T, flavor nixFlavor) { testPushAndPull(t, c, c.HTTP, flavor) })
}

// sharedBuildCache leaves out xcaddy's -trimpath, with which everything would
// be compiled a second time.
const sharedBuildCache = "XCADDY_GO_BUILD_FLAGS=-ldflags '-w -s'"

func wantHandler(t *testing.T, binary string) {
	t.Helper()
	modules, err := exec.CommandContext(t.Context(), binary, "list-modules").Output()
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(modules), "http.handlers.nix_cache\n") {
		t.Errorf("list-modules has no http.handlers.nix_cache:\n%s", modules)
	}
}
