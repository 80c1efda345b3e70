package upload

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/stevedores-org/nix-cache/caddymodule/nix"
	"github.com/stevedores-org/nix-cache/caddymodule/nix/nixtest"
	"github.com/stevedores-org/nix-cache/caddymodule/origin"
	"github.com/stevedores-org/nix-cache/caddymodule/origin/origintest"
)

// strictReceiver requires references to be there.
func strictReceiver() (*Receiver, *origintest.Memory) {
	r, m := newReceiver()
	r.RequireReferences = ReferencesSameCache
	return r, m
}

// referring returns a package that refers to itself and to n others, with names
// as long as they can be.
func referring(n int) (p nixtest.Package, others []nix.StorePath) {
	for i := range n {
		others = append(others, nixtest.StorePath(fmt.Sprintf("%04d-%s", i, strings.Repeat("x", 200))))
	}
	own := nixtest.StorePath("top")
	return nixtest.NewPackage("top", 100, nixtest.References(append(others, own)...), nixtest.SignedBy(key1)), others
}

// lay puts narinfos where only their presence counts.
func lay(m *origintest.Memory, paths ...nix.StorePath) {
	for _, path := range paths {
		m.Put(nix.NARInfoPath(path).String(), []byte("x"))
	}
}

func TestReferencesAreRequired(t *testing.T) {
	for _, n := range []int{0, 1, 3, 4, 300} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			r, m := strictReceiver()
			p, others := referring(n)
			body := push(t, m, p)
			lay(m, others...)
			m.ResetOps()
			wantOutcome(t, r, infoPath(p), body, Stored)
			if got := m.Ops("stat"); got != n+1 { // the NAR's is one
				t.Errorf("%d operations for %d references", got-1, n)
			}
		})
	}
}

func TestMissingReferencesAreNamed(t *testing.T) {
	const all = 300
	for _, missing := range []int{1, 3, 4, all} {
		t.Run(fmt.Sprint(missing), func(t *testing.T) {
			r, m := strictReceiver()
			p, others := referring(all)
			push(t, m, p)
			lay(m, others[:all-missing]...)
			m.ResetOps()
			wantRejected(t, r, infoPath(p), announced(p.Text()), ReferenceMissing)
			if got := m.Ops("stat"); missing == all && got > 1+maxNamed+2*parallelStats {
				t.Errorf("%d operations until enough were missing", got)
			}
			_, err := r.Receive(t.Context(), infoPath(p), announced(p.Text()))
			named := 0
			for _, path := range others[all-missing:] {
				named += strings.Count(err.Error(), path.String())
			}
			if named != min(missing, maxNamed) || strings.Contains(err.Error(), " and more") != (missing > maxNamed) {
				t.Errorf("%d missing, %d named: %v", missing, named, err)
			}
		})
	}
}

func TestReferencesInAnotherCache(t *testing.T) {
	r, m := newReceiver()
	p, _ := referring(300)
	wantOutcome(t, r, infoPath(p), push(t, m, p), Stored)
}

// TestReferencesDeletedSince: that they were there once counts for nothing.
func TestReferencesDeletedSince(t *testing.T) {
	r, m := strictReceiver()
	p, others := referring(2)
	body := push(t, m, p)
	lay(m, others...)
	wantOutcome(t, r, infoPath(p), body, Stored)
	m.Remove(infoPath(p).String())
	m.Remove(nix.NARInfoPath(others[0]).String())
	wantRejected(t, r, infoPath(p), announced(p.Text()), ReferenceMissing)
}

// TestUnknownReferencesAreNoRefusal: an origin that does not answer has not said
// that a reference is missing.
func TestUnknownReferencesAreNoRefusal(t *testing.T) {
	r, m := strictReceiver()
	p, others := referring(50)
	push(t, m, p)
	lay(m, others...)
	m.OnStat(func(path string) error {
		if path == nix.NARInfoPath(others[30]).String() {
			return origintest.Unavailable("stat", path)
		}
		return nil
	})
	_, err := r.Receive(t.Context(), infoPath(p), announced(p.Text()))
	var unavailable *origin.UnavailableError
	if !errors.As(err, &unavailable) {
		t.Errorf("Receive = %v, want an UnavailableError", err)
	}
	m.OnStat(nil)
	wantOutcome(t, r, infoPath(p), announced(p.Text()), Stored)
}

// TestClientLeavesBeforeReferencesAreFound: what could not be looked for is not
// taken to be there.
func TestClientLeavesBeforeReferencesAreFound(t *testing.T) {
	r, m := strictReceiver()
	p, others := referring(300)
	push(t, m, p)
	lay(m, others...)
	ctx, leave := context.WithCancel(t.Context())
	m.OnStat(func(path string) error {
		if path == nix.NARInfoPath(others[5]).String() {
			leave()
		}
		return nil
	})
	if outcome, err := r.Receive(ctx, infoPath(p), announced(p.Text())); err == nil {
		t.Errorf("Receive = %q", outcome)
	}
	if _, stored := m.Get(infoPath(p).String()); stored {
		t.Error("the narinfo was stored")
	}
}

func TestParseReferences(t *testing.T) {
	for text, want := range map[string]References{"off": AnyReferences, "same_cache": ReferencesSameCache} {
		if got, err := ParseReferences(text); err != nil || got != want {
			t.Errorf("ParseReferences(%q) = %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "on", "same-cache"} {
		if _, err := ParseReferences(text); err == nil {
			t.Errorf("ParseReferences(%q) has no error", text)
		}
	}
}
