package nix_test

import (
	"strings"
	"testing"

	zombie "zombiezen.com/go/nix"

	"github.com/stevedores-org/nix-cache/caddymodule/nix"
	"github.com/stevedores-org/nix-cache/caddymodule/nix/nixtest"
)

// someSignature is of 64 bytes: 0 to 63.
const someSignature = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4vMDEyMzQ1Njc4OTo7PD0+Pw=="

func TestParseSignature(t *testing.T) {
	for _, name := range []string{"k", "cache.example.org-1", "名前-1", "a/b=c,d;e\"f", strings.Repeat("k", 255)} {
		text := name + ":" + someSignature
		sig, err := nix.ParseSignature(text)
		if err != nil {
			t.Error(err)
			continue
		}
		if sig.KeyName != name || sig.Data[63] != 63 || sig.String() != text {
			t.Errorf("ParseSignature(%q) = %+v, String %q", text, sig, sig)
		}
		if other, err := zombie.ParseSignature(text); err != nil || other.String() != text {
			t.Errorf("zombiezen reads %v, %v", other, err)
		}
	}
}

func TestParseSignatureRefuses(t *testing.T) {
	for _, test := range nixtest.BadSignatures {
		t.Run(test.Name, func(t *testing.T) {
			sig, err := nix.ParseSignature(test.Text)
			if err == nil {
				t.Fatalf("ParseSignature(%q) = %v, want an error", test.Text, sig)
			}
			checkErrorText(t, err)
		})
	}
}

// TestLongKeyNames: of signatures and of all kinds of keys.
func TestLongKeyNames(t *testing.T) {
	for _, name := range []string{strings.Repeat("k", 255), strings.Repeat("k", 256), strings.Repeat("名", 86)} {
		_, sigErr := nix.ParseSignature(name + ":" + someSignature)
		_, publicErr := nix.ParsePublicKey(name + strings.TrimPrefix(nixtest.NewKey("k").PublicKey().String(), "k"))
		_, privateErr := nix.ParsePrivateKey(name + strings.TrimPrefix(nixtest.NewKey("k").SecretText(), "k"))
		_, newErr := nix.GeneratePrivateKey(name)
		for _, err := range []error{sigErr, publicErr, privateErr, newErr} {
			refused := err != nil && strings.Contains(err.Error(), "the key name has more than 255 bytes")
			if refused != (len(name) > 255) || !refused && err != nil {
				t.Errorf("a name of %d bytes: %v", len(name), err)
			}
		}
	}
}

func FuzzParseSignature(f *testing.F) {
	f.Add("k:" + someSignature)
	for _, test := range nixtest.BadSignatures {
		f.Add(test.Text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		sig, err := nix.ParseSignature(text)
		if err != nil {
			checkErrorText(t, err)
			return
		}
		if sig.String() != text {
			t.Errorf("ParseSignature(%q).String() = %q", text, sig)
		}
		if other, err := zombie.ParseSignature(text); err != nil || other.Name() != sig.KeyName {
			t.Errorf("zombiezen reads %v, %v", other, err)
		}
	})
}
