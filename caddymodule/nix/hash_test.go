package nix_test

import (
	"crypto/sha256"
	"strings"
	"testing"

	zombie "zombiezen.com/go/nix"

	"github.com/stevedores-org/nix-cache/caddymodule/nix"
)

const emptyHash = "0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73" // of no bytes

func TestParseSHA256(t *testing.T) {
	h, err := nix.ParseSHA256("sha256:" + emptyHash)
	if err != nil {
		t.Fatal(err)
	}
	if want := nix.SHA256(sha256.Sum256(nil)); h != want {
		t.Errorf("ParseSHA256 = %x, want %x", h, want)
	}
	if h.Base32() != emptyHash || h.String() != "sha256:"+emptyHash {
		t.Errorf("Base32 = %q, String = %q", h.Base32(), h.String())
	}
	if got, err := nix.ParseSHA256Base32(emptyHash); err != nil || got != h {
		t.Errorf("ParseSHA256Base32 = %v, %v, want %v", got, err, h)
	}
	other, err := zombie.ParseHash(h.String())
	if err != nil || string(other.Bytes(nil)) != string(h[:]) {
		t.Errorf("zombiezen reads %v, %v", other, err)
	}
}

func TestParseSHA256Refuses(t *testing.T) {
	for _, text := range []string{
		"",
		emptyHash,
		"sha256:",
		"SHA256:" + emptyHash,
		"sha1:" + emptyHash,
		"sha256-" + emptyHash,
		"sha256:" + emptyHash[1:],
		"sha256:" + emptyHash + "0",
		"sha256: " + emptyHash,
		"sha256:" + strings.ToUpper(emptyHash),
		"sha256:z" + emptyHash[1:],
		"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
		"sha256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
		"sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
	} {
		if h, err := nix.ParseSHA256(text); err == nil {
			t.Errorf("ParseSHA256(%q) = %v, want an error", text, h)
		} else {
			checkErrorText(t, err)
		}
	}
}
