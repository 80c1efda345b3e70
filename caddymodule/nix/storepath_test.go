package nix_test

import (
	"strings"
	"testing"

	zombie "zombiezen.com/go/nix"

	"github.com/stevedores-org/nix-cache/caddymodule/nix"
)

const someHash = "s66mzxpvicwk07gjbjfw9izjfa797vsw"

func TestParseStorePath(t *testing.T) {
	for _, name := range []string{
		"hello-2.12.1", "a", "-", "1", "+-._?=", "...", ".a", "..a", ".a-b", "...-x", "a.drv", strings.Repeat("n", 211),
	} {
		base := someHash + "-" + name
		p, err := nix.ParseStorePath("/nix/store/" + base)
		if err != nil {
			t.Error(err)
			continue
		}
		if p.Hash() != someHash || p.Name() != name || p.Base() != base || p.String() != "/nix/store/"+base || p.IsZero() {
			t.Errorf("%q has hash %q, name %q, base %q", p, p.Hash(), p.Name(), p.Base())
		}
		if other, err := nix.ParseStorePathBase(base); err != nil || other != p {
			t.Errorf("ParseStorePathBase = %v, %v, want %v", other, err, p)
		}
		if other, err := zombie.ParseStorePath(p.String()); err != nil || other.Digest() != p.Hash() || other.Name() != p.Name() {
			t.Errorf("zombiezen reads %v, %v", other, err)
		}
	}
}

func TestParseStorePathBaseRefuses(t *testing.T) {
	for _, base := range []string{
		"",
		someHash,
		someHash + "-",
		someHash + "_hello",
		someHash[1:] + "-hello",
		"0" + someHash + "-hello",
		"e" + someHash[1:] + "-hello",
		strings.ToUpper(someHash) + "-hello",
		someHash + "-.", someHash + "-..", someHash + "-.-x", someHash + "-..-x",
		someHash + "-" + strings.Repeat("n", 212),
		someHash + "-hello/bin", someHash + "-hello/", someHash + "-a b", someHash + "-a\n", someHash + "-a\x00",
		someHash + "-é", someHash + "-a:b", someHash + "-a%2f", someHash + "-a~b",
		"/nix/store/" + someHash + "-hello",
	} {
		if p, err := nix.ParseStorePathBase(base); err == nil {
			t.Errorf("ParseStorePathBase(%q) = %v, want an error", base, p)
		} else {
			checkErrorText(t, err)
		}
	}
}

func TestParseStorePathRefuses(t *testing.T) {
	const base = someHash + "-hello"
	for _, path := range []string{
		base, "/" + base, "/nix/store" + base, "nix/store/" + base, "/nix//store/" + base, "/nix/store//" + base,
		"/nix/store/./" + base, "/nix/store/../store/" + base, "/gnu/store/" + base, "/nix/store/" + base + "/", "//nix/store/" + base,
	} {
		if p, err := nix.ParseStorePath(path); err == nil {
			t.Errorf("ParseStorePath(%q) = %v, want an error", path, p)
		}
	}
}

func TestZeroStorePath(t *testing.T) {
	var p nix.StorePath
	if !p.IsZero() || p.Hash() != "" || p.Name() != "" || p.Base() != "" || p.String() != "" || p.IsDerivation() {
		t.Errorf("the zero value is %q with hash %q and name %q", p, p.Hash(), p.Name())
	}
}
