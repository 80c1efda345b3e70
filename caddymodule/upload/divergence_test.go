package upload

import (
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/stevedores-org/nix-cache/caddymodule/nix/nixtest"
)

// divergent returns builds of one store path that contradict each other.
func divergent() (first nixtest.Package, others map[string]nixtest.Package) {
	by := nixtest.SignedBy(key1)
	return signed("hello", 1000), map[string]nixtest.Package{
		"another NAR":      signed("hello", 999),
		"other references": nixtest.NewPackage("hello", 1000, nixtest.References(nixtest.StorePath("other-1")), by),
	}
}

func TestDivergentUploadIsRejected(t *testing.T) {
	first, others := divergent()
	for name, other := range others {
		t.Run(name, func(t *testing.T) {
			r, m := newReceiver()
			r.OnDivergence = RejectDivergent
			wantOutcome(t, r, infoPath(first), push(t, m, first), Stored)
			body := push(t, m, other)
			_, err := r.Receive(t.Context(), infoPath(other), body)
			var rejected *RejectedError
			if !errors.As(err, &rejected) || rejected.Reason != Divergent {
				t.Fatalf("Receive = %v, want a refusal as divergent", err)
			}
			for _, want := range []string{first.NARInfo.StorePath.String(), first.NARInfo.NARHash.String(), other.NARInfo.NARHash.String(), "push again"} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q does not say %s", err, want)
				}
			}
			wantStored(t, m, infoPath(first).String(), first.Text())
			wantOutcome(t, r, infoPath(first), announced(first.Text()), Unchanged)
		})
	}
}

func TestDivergentUploadIsLogged(t *testing.T) {
	first, others := divergent()
	other := others["another NAR"]
	var lines strings.Builder
	r, m := newReceiver()
	r.Log = slog.New(slog.NewTextHandler(&lines, nil))
	wantOutcome(t, r, infoPath(first), push(t, m, first), Stored)
	wantOutcome(t, r, infoPath(other), push(t, m, other), Kept)
	wantStored(t, m, infoPath(first).String(), first.Text())
	for _, want := range []string{"level=WARN", first.NARInfo.NARHash.String(), other.NARInfo.NARHash.String()} {
		if strings.Count(lines.String(), want) != 1 {
			t.Errorf("not once in the log: %s\n%s", want, &lines)
		}
	}
}

// TestUntrustedDivergentIsReplaced: whatever happens to divergent uploads, what
// nobody trusts keeps no path from those who sign.
func TestUntrustedDivergentIsReplaced(t *testing.T) {
	r, m := newReceiver()
	r.OnDivergence = RejectDivergent
	p := signed("hello", 1000)
	m.Put(infoPath(p).String(), nixtest.NewPackage("hello", 999).Text())
	wantOutcome(t, r, infoPath(p), push(t, m, p), Stored)
	wantStored(t, m, infoPath(p).String(), p.Text())
}

func TestParseDivergence(t *testing.T) {
	for text, want := range map[string]Divergence{"keep": KeepFirst, "reject": RejectDivergent} {
		if got, err := ParseDivergence(text); err != nil || got != want {
			t.Errorf("ParseDivergence(%q) = %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "Keep", "keep ", "drop"} {
		if _, err := ParseDivergence(text); err == nil {
			t.Errorf("ParseDivergence(%q) has no error", text)
		}
	}
}
