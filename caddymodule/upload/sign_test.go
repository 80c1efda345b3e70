package upload

import (
	"fmt"
	"testing"

	"github.com/stevedores-org/nix-cache/caddymodule/nix"
	"github.com/stevedores-org/nix-cache/caddymodule/nix/nixtest"
	"github.com/stevedores-org/nix-cache/caddymodule/origin/origintest"
)

var ours = nixtest.NewKey("ours-1")

func newSigner(keys ...nix.PrivateKey) (*Receiver, *origintest.Memory) {
	r, m := newReceiver()
	r.SignWith = keys
	return r, m
}

func hello(options ...nixtest.Option) nixtest.Package {
	return nixtest.NewPackage("hello", 1000, options...)
}

func TestSignedAtUpload(t *testing.T) {
	one, two, own := nixtest.SignedBy(key1), nixtest.SignedBy(key2), nixtest.SignedBy(ours)
	stranger := nixtest.SignedBy(foreign)
	for _, test := range []struct {
		name    string
		there   *nixtest.Package
		upload  nixtest.Package
		keys    []nix.PrivateKey
		want    nixtest.Package
		outcome Outcome
	}{
		{"new", nil, hello(one), []nix.PrivateKey{ours}, hello(one, own), Stored},
		{"by several keys", nil, hello(one), []nix.PrivateKey{ours, foreign}, hello(one, own, stranger), Stored},
		{"with one of the trusted keys", nil, hello(one), []nix.PrivateKey{key2}, hello(one, two), Stored},
		{"with the key that signed it", nil, hello(one), []nix.PrivateKey{key1}, hello(one), Stored},
		{"with a wrong signature under our name", nil, hello(one, relabeled("ours-1", foreign)), []nix.PrivateKey{ours}, hello(one, own), Stored},
		{"again, without our signature", new(hello(one, own)), hello(one), []nix.PrivateKey{ours}, hello(one, own), Unchanged},
		{"again, with our signature", new(hello(one, own)), hello(one, own), []nix.PrivateKey{ours}, hello(one, own), Unchanged},
		{"stored without our signature", new(hello(one)), hello(one), []nix.PrivateKey{ours}, hello(one, own), Stored},
		{"stored with that of another key", new(hello(one, stranger)), hello(two), []nix.PrivateKey{ours}, hello(one, two, stranger, own), Stored},
		{"divergent from what is stored", new(nixtest.NewPackage("hello", 999, one)), hello(one), []nix.PrivateKey{ours}, nixtest.NewPackage("hello", 999, one), Unchanged},
	} {
		t.Run(test.name, func(t *testing.T) {
			r, m := newSigner(test.keys...)
			push(t, m, test.upload)
			if test.there != nil {
				push(t, m, *test.there)
				m.Put(infoPath(*test.there).String(), test.there.Text())
			}
			got, err := r.Receive(t.Context(), infoPath(test.upload), announced(test.upload.Text()))
			if err != nil {
				t.Fatal(err)
			}
			if (got == Stored) != (test.outcome == Stored) {
				t.Errorf("outcome %q, want %q", got, test.outcome)
			}
			wantStored(t, m, infoPath(test.upload).String(), test.want.Text())
		})
	}
}

// TestWhatIsRefusedIsNotSigned: our signature does not make up for one that is
// missing.
func TestWhatIsRefusedIsNotSigned(t *testing.T) {
	p := hello()
	r, m := newSigner(ours)
	push(t, m, p)
	wantRejected(t, r, infoPath(p), announced(p.Text()), Untrusted)
	own := hello(nixtest.SignedBy(ours))
	wantRejected(t, r, infoPath(p), announced(own.Text()), Untrusted)
}

func TestWithoutTrustedKeysEverythingIsSigned(t *testing.T) {
	p := hello()
	r, m := newSigner(ours)
	r.TrustedKeys = nix.PublicKeys{}
	wantOutcome(t, r, infoPath(p), push(t, m, p), Stored)
	wantStored(t, m, infoPath(p).String(), hello(nixtest.SignedBy(ours)).Text())
}

// TestOurSignatureHasRoom: among as many as a narinfo may have.
func TestOurSignatureHasRoom(t *testing.T) {
	full := []nixtest.Option{nixtest.SignedBy(key1)}
	for i := range nix.MaxSignatures - 1 {
		full = append(full, nixtest.SignedBy(nixtest.NewKey(fmt.Sprint("foreign-", i))))
	}
	for _, there := range [][]nixtest.Option{nil, full} {
		r, m := newSigner(ours)
		p := hello(full...)
		body := push(t, m, p)
		if there != nil {
			m.Put(infoPath(p).String(), p.Text())
		}
		wantOutcome(t, r, infoPath(p), body, Stored)
		wantOutcome(t, r, infoPath(p), announced(p.Text()), Unchanged)
		text, _ := m.Get(infoPath(p).String())
		n, err := nix.ParseNARInfo(text)
		if err != nil {
			t.Fatal(err)
		}
		for _, key := range []nix.PrivateKey{ours, key1} {
			if _, err := nixtest.Trust(key).Verify(n); err != nil {
				t.Error(err)
			}
		}
	}
}

// TestTooLongWithOurSignature: a narinfo that fits only without it, and one that
// does so for a stranger's.
func TestTooLongWithOurSignature(t *testing.T) {
	p := hello(nixtest.Filled(150), nixtest.SignedBy(key1))
	r, m := newSigner(ours)
	wantRejected(t, r, infoPath(p), push(t, m, p), TooLarge)
	r.SignWith = nil
	wantOutcome(t, r, infoPath(p), announced(p.Text()), Stored)

	filled, stranger := nixtest.Filled(250), nixtest.SignedBy(foreign)
	p = hello(filled, nixtest.SignedBy(key1), stranger)
	r, m = newSigner(ours)
	wantOutcome(t, r, infoPath(p), push(t, m, p), Stored)
	wantStored(t, m, infoPath(p).String(), hello(filled, nixtest.SignedBy(key1), nixtest.SignedBy(ours)).Text())
}
