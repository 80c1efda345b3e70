package integration

import (
	"net/http"
	"os/exec"
	"strings"
	"testing"
)

// startExample runs the fresh machine's command with Caddyfile.example, on a
// free port in place of 8080.
func startExample(t *testing.T, env ...string) *cache {
	t.Helper()
	const address = "localhost:8080"
	example := readFile(t, checkout(t)+"/Caddyfile.example")
	if !strings.Contains(example, "http://"+address) {
		t.Fatalf("Caddyfile.example has no http://%s", address)
	}
	port := freePort(t)
	c := caddySetup{
		Command:   []string{"go", "run", "./cmd/caddy"},
		Caddyfile: strings.ReplaceAll(example, address, "localhost:"+port),
		Env:       append(goEnv(t), env...),
	}.start(t)
	c.HTTP = "http://localhost:" + port
	return &cache{caddy: c, base: c.HTTP, http: c.client(t)}
}

// goEnv keeps the go command at its caches when HOME is another.
func goEnv(t *testing.T) []string {
	t.Helper()
	var env []string
	for _, name := range []string{"GOCACHE", "GOMODCACHE", "GOFLAGS", "GOPROXY"} {
		value, err := exec.CommandContext(t.Context(), "go", "env", name).Output()
		if err != nil {
			t.Fatal(err)
		}
		env = append(env, name+"="+strings.TrimSpace(string(value)))
	}
	return env
}

// TestExample: the Caddyfile that a newcomer runs, as its environment says.
func TestExample(t *testing.T) {
	t.Parallel()
	trusted := []string{"UPLOAD_TOKEN=" + uploadToken, "NIX_PUBLIC_KEY=" + testPublicKey}
	t.Run("nothing set", func(t *testing.T) {
		c := startExample(t)
		p := signedPackage("example", 100)
		c.get(t, "/nix-cache-info").wantStatus(t, http.StatusOK)
		c.get(t, narinfoPath(p)).wantStatus(t, http.StatusNotFound)
		c.put(t, narPath(p), p.File).wantRefusal(t, http.StatusServiceUnavailable, "Uploads disabled")
	})
	t.Run("directory", func(t *testing.T) {
		testExample(t, startExample(t, trusted...))
	})
	t.Run("R2", func(t *testing.T) {
		b := startBucket(t)
		testExample(t, startExample(t, append(trusted,
			"ORIGIN=r2",
			"R2_ENDPOINT="+b.endpoint,
			"R2_BUCKET="+bucketName,
			"R2_ACCESS_KEY_ID="+b.accessKey,
			"R2_SECRET_ACCESS_KEY="+b.secretKey)...))
		if len(b.take()) == 0 {
			t.Error("the bucket saw no request")
		}
	})
}

func testExample(t *testing.T, c *cache) {
	unsigned := signedPackage("example", 100)
	unsigned.NARInfo.Signatures = nil
	c.put(t, narPath(unsigned), unsigned.File).wantStatus(t, http.StatusCreated)
	c.put(t, narinfoPath(unsigned), unsigned.Text()).wantRefusal(t, http.StatusBadRequest, "sign")
	forEachNix(t, func(t *testing.T, flavor nixFlavor) { testPushAndPull(t, c.caddy, c.HTTP, flavor) })
}
