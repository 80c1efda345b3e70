package nix_test

import (
	"strings"
	"testing"

	zombie "zombiezen.com/go/nix"

	"github.com/stevedores-org/nix-cache/caddymodule/nix"
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

var badSignatures = []struct{ name, text string }{
	{"empty", ""},
	{"no colon", "k" + someSignature},
	{"no name", ":" + someSignature},
	{"space in the name", "a b:" + someSignature},
	{"space before the name", " k:" + someSignature},
	{"no-break space in the name", "a\u00a0b:" + someSignature},
	{"control character in the name", "a\tb:" + someSignature},
	{"NUL in the name", "a\x00b:" + someSignature},
	{"byte order mark", "\ufeffk:" + someSignature},
	{"line separator in the name", "a\u2028b:" + someSignature},
	{"name not UTF-8", "a\xff:" + someSignature},
	{"two colons", "a:b:" + someSignature},
	{"no signature", "k:"},
	{"63 bytes", "k:" + someSignature[:83] + "A=="},
	{"63 bytes in 84 characters", "k:" + someSignature[:84]},
	{"66 bytes", "k:" + strings.Repeat("A", 88)},
	{"65 bytes", "k:" + strings.Repeat("A", 87) + "="},
	{"no padding", "k:" + strings.TrimRight(someSignature, "=")},
	{"text after the padding", "k:" + someSignature + "AAAA"},
	{"stray bits", "k:" + strings.TrimSuffix(someSignature, "w==") + "x=="},
	{"newline inside", "k:" + someSignature[:10] + "\n" + someSignature[10:]},
	{"newline in place of a character", "k:" + someSignature[:10] + "\n" + someSignature[11:]},
	{"carriage returns in place of a group", "k:" + someSignature[:8] + "\r\r\r\r" + someSignature[12:]},
	{"carriage return at the end", "k:" + someSignature + "\r"},
	{"space at the end", "k:" + someSignature + " "},
	{"URL-safe alphabet", "k:" + strings.ReplaceAll(someSignature, "+", "-")},
	{"padding inside", "k:" + someSignature[:40] + "==" + someSignature[42:]},
}

func TestParseSignatureRefuses(t *testing.T) {
	for _, test := range badSignatures {
		t.Run(test.name, func(t *testing.T) {
			sig, err := nix.ParseSignature(test.text)
			if err == nil {
				t.Fatalf("ParseSignature(%q) = %v, want an error", test.text, sig)
			}
			checkErrorText(t, err)
		})
	}
}

func FuzzParseSignature(f *testing.F) {
	f.Add("k:" + someSignature)
	for _, test := range badSignatures {
		f.Add(test.text)
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
