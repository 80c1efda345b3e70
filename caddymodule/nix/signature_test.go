package nix_test

import (
	"testing"

	zombie "zombiezen.com/go/nix"

	"github.com/stevedores-org/nix-cache/caddymodule/nix"
	"github.com/stevedores-org/nix-cache/caddymodule/nix/nixtest"
)

// someSignature is of 64 bytes: 0 to 63.
const someSignature = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4vMDEyMzQ1Njc4OTo7PD0+Pw=="

func TestParseSignature(t *testing.T) {
	for _, name := range []string{"k", "cache.example.org-1", "名前-1", "a/b=c,d;e\"f"} {
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
