package nix_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stevedores-org/nix-cache/caddymodule/nix"
	"github.com/stevedores-org/nix-cache/caddymodule/nix/nixtest"
)

func signers(n *nix.NARInfo) []string {
	names := make([]string, len(n.Signatures))
	for i, s := range n.Signatures {
		names[i] = s.KeyName
	}
	slices.Sort(names)
	return names
}

func TestSignWith(t *testing.T) {
	a, b, own := nixtest.NewKey("a"), nixtest.NewKey("b"), nixtest.NewKey("own")
	by := func(keys ...nix.PrivateKey) *nix.NARInfo {
		n := nixtest.NewPackage("hello-1.0", 10).NARInfo
		for _, k := range keys {
			n.Signatures = append(n.Signatures, k.Sign(n))
		}
		return n
	}
	wrong := by(a)
	sig := b.Sign(wrong)
	sig.KeyName = "own"
	wrong.Signatures = append(wrong.Signatures, sig)
	for _, test := range []struct {
		name    string
		n       *nix.NARInfo
		keys    []nix.PrivateKey
		want    []string
		changed bool
	}{
		{"further key", by(a), []nix.PrivateKey{own}, []string{"a", "own"}, true},
		{"two keys", by(a), []nix.PrivateKey{own, b}, []string{"a", "b", "own"}, true},
		{"key that signed", by(own, a), []nix.PrivateKey{own}, []string{"a", "own"}, false},
		{"unsigned", by(), []nix.PrivateKey{own}, []string{"own"}, true},
		{"no key", by(b, a), nil, []string{"a", "b"}, false},
		{"wrong signature under the key's name", wrong, []nix.PrivateKey{own}, []string{"a", "own"}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := test.n.SignWith(test.keys, nixtest.Trust(a)); got != test.changed {
				t.Errorf("changed = %v, want %v", got, test.changed)
			}
			if got := signers(test.n); !slices.Equal(got, test.want) {
				t.Errorf("signed by %q, want %q", got, test.want)
			}
			for _, k := range test.keys {
				if _, err := nixtest.Trust(k).Verify(test.n); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// TestSignWithWhereThereIsNoRoom: neither our signature is dropped, nor the one
// that the narinfo is trusted for.
func TestSignWithWhereThereIsNoRoom(t *testing.T) {
	trusted, own := nixtest.NewKey("trusted"), nixtest.NewKey("own")
	for _, place := range []int{0, nix.MaxSignatures / 2, nix.MaxSignatures - 1, 2*nix.MaxSignatures - 1} {
		n := nixtest.NewPackage("hello-1.0", 10).NARInfo
		for i := range 2 * nix.MaxSignatures {
			k := nixtest.NewKey(fmt.Sprint("foreign-", i))
			if i == place {
				k = trusted
			}
			n.Signatures = append(n.Signatures, k.Sign(n))
		}
		if !n.SignWith([]nix.PrivateKey{own}, nixtest.Trust(trusted)) || len(n.Signatures) != nix.MaxSignatures {
			t.Errorf("%d signatures, want %d", len(n.Signatures), nix.MaxSignatures)
		}
		for _, k := range []nix.PrivateKey{own, trusted} {
			if _, err := nixtest.Trust(k).Verify(n); err != nil {
				t.Error(err)
			}
		}
		if n.SignWith([]nix.PrivateKey{own}, nixtest.Trust(trusted)) {
			t.Error("signed again, it has changed")
		}
		if _, err := n.MarshalText(); err != nil {
			t.Error(err)
		}
	}
}

// TestSignWithWhereTheTextHasNoRoom: the signatures of strangers give way by
// their bytes, too, and only as many as need be.
func TestSignWithWhereTheTextHasNoRoom(t *testing.T) {
	trusted, own := nixtest.NewKey("trusted"), nixtest.NewKey("own")
	stranger, long := nixtest.NewKey("stranger"), nixtest.NewKey(strings.Repeat("s", 255))
	n := nixtest.NewPackage("hello-1.0", 10, nixtest.Filled(400)).NARInfo
	n.Signatures = []nix.Signature{long.Sign(n), stranger.Sign(n), trusted.Sign(n)}
	if !n.SignWith([]nix.PrivateKey{own}, nixtest.Trust(trusted)) {
		t.Error("not changed")
	}
	if got, want := signers(n), []string{"own", "stranger", "trusted"}; !slices.Equal(got, want) {
		t.Errorf("signed by %q, want %q", got, want)
	}
	mustMarshal(t, n)
	if n.SignWith([]nix.PrivateKey{own}, nixtest.Trust(trusted)) {
		t.Error("signed again, it has changed")
	}
}
