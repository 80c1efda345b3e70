package maintain

import (
	"context"
	"fmt"
	"os"
	"testing"

	"github.com/stevedores-org/nix-cache/caddymodule/nix"
	"github.com/stevedores-org/nix-cache/caddymodule/nix/nixtest"
	"github.com/stevedores-org/nix-cache/caddymodule/origin/origintest"
)

var (
	builder = nixtest.NewKey("builder-1")
	ours    = nixtest.NewKey("ours-1")
	next    = nixtest.NewKey("ours-2")
	foreign = nixtest.NewKey("foreign-1")
)

func narinfo(p nixtest.Package) string { return nix.NARInfoPath(p.NARInfo.StorePath).String() }

// lay puts packages into an origin as they are after an upload.
func lay(m *origintest.Memory, packages ...nixtest.Package) {
	for _, p := range packages {
		m.Put(p.NARInfo.URL(), p.File)
		m.Put(narinfo(p), p.Text())
	}
}

// many are n packages signed by builder.
func many(n int) []nixtest.Package {
	packages := make([]nixtest.Package, n)
	for i := range packages {
		packages[i] = nixtest.NewPackage(fmt.Sprint("package-", i), 10, nixtest.SignedBy(builder))
	}
	return packages
}

// signAll signs until the end or an error.
func signAll(ctx context.Context, s *Signer, after string) (done []Signing, err error) {
	for signing, err := range s.All(ctx, after) {
		if err != nil {
			return done, err
		}
		done = append(done, signing)
	}
	return done, nil
}

func count(signings []Signing) map[Outcome]int {
	counts := make(map[Outcome]int)
	for _, s := range signings {
		counts[s.Outcome]++
	}
	return counts
}

func newSigner(m *origintest.Memory, keys ...nix.PrivateKey) *Signer {
	return &Signer{Origin: m, Keys: keys, Trusted: nixtest.Trust(builder), Parallel: 8}
}

// wantSigned fails unless every narinfo parses and has signatures of these keys.
func wantSigned(t *testing.T, m *origintest.Memory, path string, keys ...nix.PrivateKey) {
	t.Helper()
	text, _ := m.Get(path)
	n, err := nix.ParseNARInfo(text)
	if err != nil {
		t.Errorf("%s: %v", path, err)
		return
	}
	for _, k := range keys {
		if _, err := nixtest.Trust(k).Verify(n); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func writeFile(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
