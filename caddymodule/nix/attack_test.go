package nix_test

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stevedores-org/nix-cache/caddymodule/nix"
	"github.com/stevedores-org/nix-cache/caddymodule/nix/nixtest"
)

// What is attacked: narinfos Nix wrote, with and without references, and
// content-addressed ones.
func newAttackBase(t testing.TB) nixtest.AttackBase {
	texts := readTestdata(t)
	file := func(name string) string { return string(texts["testdata/nix-2.8/"+name+".narinfo"]) }
	return nixtest.AttackBase{
		Refs:    file("self-1.0.5zqr3a.xz"),
		Plain:   file("plain-1.0.9gmlms.xz"),
		None:    file("plain-1.0.9gmlms.none"),
		Text:    file("text.txt.46v3af.xz"),
		Fixed:   file("tree.rf4bn9.xz"),
		Texts:   file("texts.txt.4s7wsm.xz"),
		FlatMD5: file("fixed-flat-md5.1r00ry.xz"),
	}
}

func checkAttacks(t *testing.T, attacks []nixtest.Attack) {
	t.Helper()
	for _, a := range attacks {
		t.Run(a.Name, func(t *testing.T) {
			n, err := nix.ParseNARInfo([]byte(a.Text))
			if err == nil {
				t.Fatalf("it is taken as %+v", n)
			}
			checkErrorText(t, err)
			if !strings.Contains(err.Error(), a.Want) {
				t.Errorf("error %q, want %q in it", err, a.Want)
			}
		})
	}
}

func TestAttackBaseIsTaken(t *testing.T) {
	b := newAttackBase(t)
	for _, text := range []string{b.Refs, b.Plain, b.None, b.Text, b.Fixed, b.Texts, b.FlatMD5} {
		mustParseNARInfo(t, []byte(text))
	}
}

// The synthetic ones are attacked in the same way.
func TestAttackVictims(t *testing.T) {
	v := nixtest.NewVictims(nixtest.NewKey("test-1"))
	for _, p := range v.All() {
		mustParseNARInfo(t, p.Text())
	}
	checkAttacks(t, v.Base().Attacks())
}

// attacksOf returns those of one point of the list.
func attacksOf(t testing.TB, point int) []nixtest.Attack {
	attacks := newAttackBase(t).Attacks()
	return slices.DeleteFunc(attacks, func(a nixtest.Attack) bool { return a.Point != point })
}

// A content address is not signed, and a wrong one aborts clients.
func TestAttack01ContentAddressAppended(t *testing.T) {
	checkAttacks(t, attacksOf(t, 1))
}

// An unknown compression aborts clients; a known one that is not the file's
// fails with some.
func TestAttack02Compression(t *testing.T) { checkAttacks(t, attacksOf(t, 2)) }

// One malformed signature makes the whole narinfo an error for clients.
func TestAttack03MalformedSignature(t *testing.T) { checkAttacks(t, attacksOf(t, 3)) }

// Clients don't read lines: they read a name up to the next colon, and a value
// up to the next newline.
func TestAttack04LineStructure(t *testing.T) { checkAttacks(t, attacksOf(t, 4)) }

// These tricks are real: what a client reads is not what the lines say.
func TestAttack04ClientsReadOtherwise(t *testing.T) {
	b := newAttackBase(t)
	for _, inserted := range []string{"\n", "foo\n", "System:\n"} {
		fields, ok := clientReading(strings.Replace(b.Refs, "\nReferences: ", "\n"+inserted+"References: ", 1))
		if ok && len(fields["References"]) != 0 {
			t.Errorf("after %q a client still reads references", inserted)
		}
	}
}

// Of two equal fields clients take the last, or give up.
func TestAttack05DuplicateField(t *testing.T) { checkAttacks(t, attacksOf(t, 5)) }

// A URL may lead clients to another object, host or a file of their own.
func TestAttack06URL(t *testing.T) { checkAttacks(t, attacksOf(t, 6)) }

// A valid narinfo of one path can be put under another's name.
func TestAttack07OtherName(t *testing.T) {
	b := newAttackBase(t)
	n := mustParseNARInfo(t, []byte(b.Refs))
	own, err := nix.ParseCachePath("5zqr3a84xj9jqaj83ljvzq48wridn3jr.narinfo")
	if err != nil {
		t.Fatal(err)
	}
	if nix.NARInfoPath(n.StorePath) != own {
		t.Errorf("NARInfoPath = %v, want %v", nix.NARInfoPath(n.StorePath), own)
	}
	other := nix.NARInfoPath(mustParseNARInfo(t, []byte(b.Plain)).StorePath)
	if other == own {
		t.Errorf("two store paths have the one narinfo %v", own)
	}
}

// Of every value there is one spelling.
func TestAttack08Spelling(t *testing.T) { checkAttacks(t, attacksOf(t, 8)) }

// What is not signed may be a lie; a part of it contradicts the rest.
func TestAttack09UnsignedLies(t *testing.T) { checkAttacks(t, attacksOf(t, 9)) }

// Whose truth only the NAR's file shows, or nobody: clients take them as they are.
func TestAttack09WhatIsTaken(t *testing.T) {
	b := newAttackBase(t)
	for field, value := range map[string]string{"FileSize": "1", "Deriver": someHash + "-evil.drv"} {
		before, rest, _ := strings.Cut(b.Refs, "\n"+field+": ")
		_, after, _ := strings.Cut(rest, "\n")
		lied := mustParseNARInfo(t, []byte(before+"\n"+field+": "+value+"\n"+after))
		if !lied.SameSignedFields(mustParseNARInfo(t, []byte(b.Refs))) {
			t.Errorf("%s is signed", field)
		}
	}
}

// Paths other than of a narinfo or a NAR are none: they could hold anything, and
// are served from the cache's own origin.
func TestAttack11OtherPaths(t *testing.T) {
	for _, path := range []string{
		"nix-cache-info", "index.html", "../../etc/passwd", "nar/../nix-cache-info", "..%2fnix-cache-info",
		"hello.narinfo", someHash + "-hello.narinfo", someHash + ".narinfo/../../x",
	} {
		if p, err := nix.ParseCachePath(path); err == nil {
			t.Errorf("ParseCachePath(%q) = %v, want an error", path, p)
		}
	}
}

// Time and memory are bounded.
func TestAttack12Size(t *testing.T) { checkAttacks(t, newAttackBase(t).Floods()) }

func TestAttack12LimitsAreTaken(t *testing.T) {
	p := nixtest.NewPackage("hello-1.0", 10)
	for i := range nix.MaxSignatures {
		nixtest.SignedBy(nixtest.NewKey(fmt.Sprint("k", i)))(&p)
	}
	if n := mustParseNARInfo(t, p.Text()); len(n.Signatures) != nix.MaxSignatures {
		t.Errorf("%d signatures, want %d", len(n.Signatures), nix.MaxSignatures)
	}
	text := p.Text()
	fill := nix.MaxNARInfoSize - len(text) - len("System: \n")
	mustParseNARInfo(t, slices.Concat(text, []byte("System: "), bytes.Repeat([]byte("x"), fill), []byte("\n")))
}

// Of two keys of one name clients know the first listed only.
func TestAttack13TwoKeysOfOneName(t *testing.T) {
	one := nixtest.NewKey("k").PublicKey()
	generated, err := nix.GeneratePrivateKey("k")
	if err != nil {
		t.Fatal(err)
	}
	_, err = nix.NewPublicKeys(one, nixtest.NewKey("other").PublicKey(), generated.PublicKey())
	if err == nil || !strings.Contains(err.Error(), `"k"`) {
		t.Errorf("error %v, want one that names the key", err)
	}
}
