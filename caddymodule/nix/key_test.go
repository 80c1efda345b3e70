package nix_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	zombie "zombiezen.com/go/nix"

	"github.com/stevedores-org/nix-cache/caddymodule/nix"
	"github.com/stevedores-org/nix-cache/caddymodule/nix/nixtest"
)

func TestParsePublicKey(t *testing.T) {
	const text = "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY="
	k, err := nix.ParsePublicKey(text)
	if err != nil {
		t.Fatal(err)
	}
	if k.Name() != "cache.nixos.org-1" || k.String() != text {
		t.Errorf("name %q, text %q", k.Name(), k)
	}
	for _, bad := range []string{
		"", "k", ":", "k:", text[17:], text + "\n", text + " ", " " + text, text[:len(text)-1], "k:" + someSignature, strings.Replace(text, "Y=", "Z=", 1),
	} {
		if k, err := nix.ParsePublicKey(bad); err == nil {
			t.Errorf("ParsePublicKey(%q) = %v, want an error", bad, k)
		} else {
			checkErrorText(t, err)
		}
	}
}

func TestNewPublicKeysCountsAKeyOnce(t *testing.T) {
	k, other := nixtest.NewKey("k"), nixtest.NewKey("other")
	if got := nixtest.Trust(k, other, k).Len(); got != 2 {
		t.Errorf("Len = %d, want 2", got)
	}
}

func TestVerify(t *testing.T) {
	k, other, stranger := nixtest.NewKey("k"), nixtest.NewKey("other"), nixtest.NewKey("stranger")
	n := nixtest.NewPackage("hello-1.0", 10).NARInfo
	wrong := nixtest.NewPackage("wrong-1.0", 10).NARInfo
	named := func(name string, s nix.Signature) nix.Signature { s.KeyName = name; return s }
	long := strings.Repeat("\U0010ffff", 1000)

	tests := []struct {
		name       string
		signatures []nix.Signature
		want       string   // the key's name
		wantError  []string // parts of the text
	}{
		{"one", []nix.Signature{k.Sign(n)}, "k", nil},
		{"second", []nix.Signature{stranger.Sign(n), other.Sign(n)}, "other", nil},
		{"first of two", []nix.Signature{k.Sign(n), other.Sign(n)}, "k", nil},
		{"bad one of a stranger", []nix.Signature{stranger.Sign(wrong), k.Sign(n)}, "k", nil},
		{"none", nil, "", []string{"no signature by a trusted key", `trusted: "k", "other"`, "signed by: none"}},
		{"stranger", []nix.Signature{stranger.Sign(n)}, "", []string{"no signature by a trusted key", `signed by: "stranger"`}},
		{"bad", []nix.Signature{k.Sign(wrong)}, "", []string{`the signature by "k" is wrong`}},
		{"bad after good", []nix.Signature{other.Sign(n), k.Sign(wrong)}, "", []string{`the signature by "k" is wrong`}},
		{"good and bad of one name", []nix.Signature{k.Sign(n), k.Sign(wrong)}, "", []string{`the signature by "k" is wrong`}},
		{"stranger under a trusted name", []nix.Signature{named("k", stranger.Sign(n))}, "", []string{`the signature by "k" is wrong`}},
		{"long names", []nix.Signature{named(long, k.Sign(n)), named(long+"2", k.Sign(n)), named("x", k.Sign(n))}, "", []string{"and 1 more"}},
	}
	trusted := nixtest.Trust(k, other)
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			signed := *n
			signed.Signatures = test.signatures
			got, err := trusted.Verify(&signed)
			if got != test.want || (err != nil) != (test.wantError != nil) {
				t.Fatalf("Verify = %q, %v, want %q", got, err, test.want)
			}
			if err == nil {
				return
			}
			checkErrorText(t, err)
			for _, part := range test.wantError {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("error %q, want %q in it", err, part)
				}
			}
		})
	}
}

func TestVerifyTrustsNoneByDefault(t *testing.T) {
	k := nixtest.NewKey("k")
	n := nixtest.NewPackage("hello-1.0", 10, nixtest.SignedBy(k)).NARInfo
	if name, err := (nix.PublicKeys{}).Verify(n); err == nil {
		t.Errorf("Verify = %q with no trusted key", name)
	}
}

// Each of the signed fields, when changed, makes the signature wrong.
func TestVerifyChangedField(t *testing.T) {
	k := nixtest.NewKey("k")
	trusted := nixtest.Trust(k)
	for name, change := range map[string]func(*nix.NARInfo){
		"StorePath":  func(n *nix.NARInfo) { n.StorePath = nixtest.StorePath("other-1.0") },
		"NARHash":    func(n *nix.NARInfo) { n.NARHash[0] ^= 1 },
		"NARSize":    func(n *nix.NARInfo) { n.NARSize++ },
		"References": func(n *nix.NARInfo) { n.References = []nix.StorePath{n.StorePath} },
	} {
		n := nixtest.NewPackage("hello-1.0", 10, nixtest.SignedBy(k)).NARInfo
		if _, err := trusted.Verify(n); err != nil {
			t.Fatal(err)
		}
		change(n)
		if _, err := trusted.Verify(n); err == nil {
			t.Errorf("%s is changed, and the signature still right", name)
		}
	}
}

func TestPrivateKeyRoundTrip(t *testing.T) {
	k, err := nix.GeneratePrivateKey("fresh-1")
	if err != nil {
		t.Fatal(err)
	}
	again, err := nix.ParsePrivateKey(k.SecretText())
	if err != nil {
		t.Fatal(err)
	}
	if again.Name() != "fresh-1" || again.PublicKey() != k.PublicKey() || again.SecretText() != k.SecretText() || k.IsZero() {
		t.Errorf("read back as %v %v, want %v", again, again.PublicKey(), k.PublicKey())
	}
	n := nixtest.NewPackage("hello-1.0", 10).NARInfo
	n.Signatures = append(n.Signatures, again.Sign(n))
	if _, err := nixtest.Trust(k).Verify(n); err != nil {
		t.Error(err)
	}
	if next, err := nix.GeneratePrivateKey("fresh-1"); err != nil || next.PublicKey() == k.PublicKey() {
		t.Errorf("generated the same key twice, or: %v", err)
	}
}

func TestPrivateKeyAgreesWithOther(t *testing.T) {
	k := nixtest.NewKey("test-1")
	other, err := zombie.ParsePrivateKey(k.SecretText())
	if err != nil {
		t.Fatal(err)
	}
	if got, want := k.PublicKey().String(), other.PublicKey().String(); got != want {
		t.Errorf("public key %v, want %v", got, want)
	}
}

func TestParsePrivateKeyRefusesWithoutTellingIt(t *testing.T) {
	text := nixtest.NewKey("test-1").SecretText()
	name, secret, _ := strings.Cut(text, ":")
	swapped := name + ":" + strings.Replace(secret, secret[60:64], "AAAA", 1)
	for _, bad := range []string{secret, ":" + secret, "a b:" + secret, text + "\n", text[:len(text)-1], name + ":" + secret[:44], name + ":!" + secret[1:], swapped} {
		_, err := nix.ParsePrivateKey(bad)
		if err == nil {
			t.Errorf("ParsePrivateKey(%q): want an error", bad)
			continue
		}
		checkErrorText(t, err)
		if strings.Contains(err.Error(), secret[1:20]) {
			t.Errorf("the error tells the secret: %v", err)
		}
	}
}

func TestGeneratePrivateKeyRefusesNames(t *testing.T) {
	for _, name := range []string{"", "a b", "a:b", "a\n"} {
		if _, err := nix.GeneratePrivateKey(name); err == nil {
			t.Errorf("GeneratePrivateKey(%q): want an error", name)
		}
	}
}

func TestPrivateKeyNeverPrintsItsSecret(t *testing.T) {
	k := nixtest.NewKey("test-1")
	type holder struct {
		Key   nix.PrivateKey
		inner nix.PrivateKey
		refs  []*nix.PrivateKey
	}
	values := []any{k, &k, holder{k, k, []*nix.PrivateKey{&k}}, &holder{k, k, nil}, []nix.PrivateKey{k}, map[string]nix.PrivateKey{"k": k}}

	var out bytes.Buffer
	for _, v := range values {
		for _, verb := range "vsqxXdobcteEfgGpTUw" {
			for _, flag := range []string{"", "+", "#", " ", "0"} {
				fmt.Fprintf(&out, "%"+flag+string(verb)+"\n", v)
			}
		}
		slog.New(slog.NewTextHandler(&out, nil)).Info("key", "v", v)
		slog.New(slog.NewJSONHandler(&out, nil)).Info("key", "v", v)
		encoded, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		out.Write(encoded)
	}
	if !strings.Contains(out.String(), `private key "test-1"`) {
		t.Error("the key's name is not shown")
	}
	for form, secret := range secretForms(k) {
		if strings.Contains(strings.ToLower(out.String()), strings.ToLower(secret)) {
			t.Errorf("the secret is shown in %s", form)
		}
	}
}

// secretForms returns pieces of the secret as they would be printed.
func secretForms(k nix.PrivateKey) map[string]string {
	_, text, _ := strings.Cut(k.SecretText(), ":")
	sig, _ := nix.ParseSignature("k:" + text) // the same form
	seed := sig.Data[:8]
	return map[string]string{
		"base 64":      text[:10],
		"hex":          hex.EncodeToString(seed),
		"spaced hex":   fmt.Sprintf("% x", seed),
		"Go syntax":    strings.Trim(fmt.Sprintf("%#v", seed), "[]byte{}"),
		"decimal":      strings.Trim(fmt.Sprint(seed), "[]"),
		"JSON numbers": strings.ReplaceAll(strings.Trim(fmt.Sprint(seed), "[]"), " ", ","),
		"octal":        strings.Trim(fmt.Sprintf("%o", seed), "[]"),
		"binary":       strings.Trim(fmt.Sprintf("%b", seed), "[]"),
		"characters":   strings.Trim(fmt.Sprintf("%c", seed), "[]"),
		"raw bytes":    string(seed),
	}
}
