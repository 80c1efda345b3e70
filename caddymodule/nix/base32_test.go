package nix_test

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"

	"zombiezen.com/go/nix/nixbase32"

	"github.com/stevedores-org/nix-cache/caddymodule/nix"
)

// The texts are from nix-hash --to-base32.
var base32Tests = []struct{ hex, text string }{
	{"", ""},
	{"1f", "0z"},
	{"ff", "7z"},
	{"d41d8cd98f00b204e9800998ecf8427e", "3y8bwfr609h3lh9ch0izcqq7fl"},
	{"da39a3ee5e6b4b0d3255bfef95601890afd80709", "143xibwh31h9bvxzalr0sjvbbvpa6ffs"},
	{"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", "0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73"},
}

func TestBase32(t *testing.T) {
	for _, test := range base32Tests {
		data, err := hex.DecodeString(test.hex)
		if err != nil {
			t.Fatal(err)
		}
		if got := nix.EncodeBase32(data); got != test.text {
			t.Errorf("EncodeBase32(%x) = %q, want %q", data, got, test.text)
		}
		got, err := nix.DecodeBase32(test.text)
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("DecodeBase32(%q) = %x, %v, want %x", test.text, got, err, data)
		}
	}
}

func TestBase32AgreesWithOther(t *testing.T) {
	for size := range 70 {
		data := bytes.Repeat([]byte{0xa7, 0x01, 0xff, 0x80}, 20)[:size]
		if got, want := nix.EncodeBase32(data), nixbase32.EncodeToString(data); got != want {
			t.Errorf("EncodeBase32(%x) = %q, want %q", data, got, want)
		}
	}
}

var badBase32Tests = []struct{ name, text string }{
	{"one character", "0"},
	{"length of no data", "000"},
	{"stray bit", "80"},
	{"stray bits of a SHA-256", strings.Repeat("z", 52)},
	{"letter left out", "0e"},
	{"upper case", "0A"},
	{"padding", "0z=="},
	{"newline", "0\n"},
	{"NUL", "0\x00"},
	{"not ASCII", "é"},
}

func TestDecodeBase32Refuses(t *testing.T) {
	for _, test := range badBase32Tests {
		t.Run(test.name, func(t *testing.T) {
			if got, err := nix.DecodeBase32(test.text); err == nil {
				t.Errorf("DecodeBase32(%q) = %x, want an error", test.text, got)
			}
		})
	}
}

func FuzzDecodeBase32(f *testing.F) {
	for _, test := range base32Tests {
		f.Add(test.text)
	}
	for _, test := range badBase32Tests {
		f.Add(test.text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		data, err := nix.DecodeBase32(text)
		if err != nil {
			checkErrorText(t, err)
			return
		}
		if got := nix.EncodeBase32(data); got != text {
			t.Errorf("EncodeBase32(DecodeBase32(%q)) = %q", text, got)
		}
		other, err := nixbase32.DecodeString(text)
		if err != nil || !bytes.Equal(other, data) {
			t.Errorf("nixbase32 decodes %q to %x, %v, want %x", text, other, err, data)
		}
	})
}
