package nix_test

import (
	"slices"
	"strings"
	"testing"

	zombie "zombiezen.com/go/nix"

	"github.com/stevedores-org/nix-cache/caddymodule/nix"
	"github.com/stevedores-org/nix-cache/caddymodule/nix/nixtest"
)

// Digests of nothing.
const (
	md5Digits    = "3y8bwfr609h3lh9ch0izcqq7fl"
	sha1Digits   = "143xibwh31h9bvxzalr0sjvbbvpa6ffs"
	sha512Digits = "0zdl9zrg8r3i9c1g90lgg9ip5ijzv3yhz91i0zzn3r8ap9ws784gkp9dk9j3aglhgf1amqb0pj21mh7h1nxcl18akqvvf7ggqsy30yg"
)

func TestParseContentAddress(t *testing.T) {
	for _, text := range []string{
		"text:sha256:" + emptyHash,
		"fixed:md5:" + md5Digits, "fixed:sha1:" + sha1Digits, "fixed:sha256:" + emptyHash, "fixed:sha512:" + sha512Digits,
		"fixed:r:md5:" + md5Digits, "fixed:r:sha1:" + sha1Digits, "fixed:r:sha256:" + emptyHash, "fixed:r:sha512:" + sha512Digits,
	} {
		ca, err := nix.ParseContentAddress(text)
		if err != nil || ca.String() != text || ca.IsZero() {
			t.Errorf("ParseContentAddress(%q) = %v, %v", text, ca, err)
		}
		if other, err := zombie.ParseContentAddress(text); err != nil || other.String() != text {
			t.Errorf("zombiezen reads %v, %v", other, err)
		}
	}
	if ca := (nix.ContentAddress{}); !ca.IsZero() || ca.String() != "" {
		t.Errorf("the zero value is %q", ca)
	}
}

func TestParseContentAddressRefuses(t *testing.T) {
	for _, text := range nixtest.BadContentAddresses {
		if ca, err := nix.ParseContentAddress(text); err == nil {
			t.Errorf("ParseContentAddress(%q) = %v, want an error", text, ca)
		} else {
			checkErrorText(t, err)
		}
	}
}

// Nix wrote these paths for these content addresses, of every method and
// algorithm, with references and without, one of them to the path itself.
func TestContentAddressVerifyNix(t *testing.T) {
	seen := map[string]bool{}
	for name, text := range readTestdata(t) {
		n := mustParseNARInfo(t, text)
		if n.CA.IsZero() {
			continue
		}
		if err := n.CA.Verify(n.StorePath, n.References); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		backwards := slices.Clone(n.References)
		slices.Reverse(backwards)
		if err := n.CA.Verify(n.StorePath, backwards); err != nil {
			t.Errorf("%s, references in another order: %v", name, err)
		}
		seen[n.CA.String()[:strings.LastIndex(n.CA.String(), ":")]] = true

		if err := n.CA.Verify(mustStorePath(t, someHash+"-"+n.StorePath.Name()), n.References); err == nil {
			t.Errorf("%s: verified for another hash", name)
		}
		if err := n.CA.Verify(mustStorePath(t, n.StorePath.Base()+"x"), n.References); err == nil {
			t.Errorf("%s: verified for another name", name)
		}
		if err := n.CA.Verify(n.StorePath, append(n.References, mustStorePath(t, someHash+"-more"))); err == nil {
			t.Errorf("%s: verified with one more reference", name)
		}
		if len(n.References) > 0 {
			if err := n.CA.Verify(n.StorePath, n.References[1:]); err == nil {
				t.Errorf("%s: verified with one reference less", name)
			}
		}
	}
	if len(seen) != 9 {
		t.Errorf("the files have the content addresses %v, want all nine", seen)
	}
}
