package nix_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"unicode"

	zombie "zombiezen.com/go/nix"

	"github.com/stevedores-org/nix-cache/caddymodule/nix"
	"github.com/stevedores-org/nix-cache/caddymodule/nix/nixtest"
)

// readTestdata returns the narinfos that Nix wrote, by file name.
func readTestdata(t testing.TB) map[string][]byte {
	t.Helper()
	names, err := filepath.Glob("testdata/nix-*/*.narinfo")
	if err != nil || len(names) == 0 {
		t.Fatalf("testdata has %d narinfos, error %v", len(names), err)
	}
	texts := make(map[string][]byte, len(names))
	for _, name := range names {
		if texts[name], err = os.ReadFile(name); err != nil {
			t.Fatal(err)
		}
	}
	return texts
}

func mustParseNARInfo(t testing.TB, text []byte) *nix.NARInfo {
	t.Helper()
	n, err := nix.ParseNARInfo(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func mustMarshal(t testing.TB, n *nix.NARInfo) []byte {
	t.Helper()
	text, err := n.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// checkErrorText asserts that an error is fit to be shown to an uploader.
func checkErrorText(t testing.TB, err error) {
	t.Helper()
	text := err.Error()
	if len(text) >= 300 {
		t.Errorf("error of %d bytes: %s", len(text), text)
	}
	if strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) || r > '~' }) {
		t.Errorf("error is not one line of printable ASCII: %q", text)
	}
}

func TestParseNARInfo(t *testing.T) {
	text := readTestdata(t)["testdata/nix-2.8/top_odd_name_2.0_x.vcj6pp.xz.narinfo"]
	got := mustParseNARInfo(t, text)

	hash := func(digits string) nix.SHA256 {
		h, err := nix.ParseSHA256Base32(digits)
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	want := &nix.NARInfo{
		StorePath:   mustStorePath(t, "vcj6pp0pwxrqqvq8rj5k3fvv5xz53hdq-top+odd_name=2.0?x"),
		Compression: nix.CompressionXZ,
		FileHash:    hash("07l074rx8mkjjl7nhia9ff8adqf961vpwnqxkvz45lh2ddwrc4nq"),
		FileSize:    284,
		NARHash:     hash("0p42r03y4qg5403bg7l1vy6cdr6v1nj5fh06x9swh4y7zcwjs377"),
		NARSize:     440,
		References: []nix.StorePath{
			mustStorePath(t, "5zqr3a84xj9jqaj83ljvzq48wridn3jr-self-1.0"),
			mustStorePath(t, "9gmlmsh7gl82ha8m4xdp0wqi0nqfags4-plain-1.0"),
			mustStorePath(t, "rf4bn9h91ks9nbfgvsb0kzs1xkp78ari-tree"),
		},
		Deriver:    mustStorePath(t, "xhphjv8b5wrjplhhh7b01sdqbg1cvv6b-top+odd_name=2.0?x.drv"),
		Signatures: got.Signatures,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if names := []string{got.Signatures[0].KeyName, got.Signatures[1].KeyName}; !slices.Equal(names, []string{"other-1", "test-1"}) {
		t.Errorf("signed by %v", names)
	}
	if got.URL() != "nar/07l074rx8mkjjl7nhia9ff8adqf961vpwnqxkvz45lh2ddwrc4nq.nar.xz" || got.URL() != got.NARPath().String() {
		t.Errorf("URL %q, NARPath %q", got.URL(), got.NARPath())
	}
	const fingerprint = "1;/nix/store/vcj6pp0pwxrqqvq8rj5k3fvv5xz53hdq-top+odd_name=2.0?x;" +
		"sha256:0p42r03y4qg5403bg7l1vy6cdr6v1nj5fh06x9swh4y7zcwjs377;440;" +
		"/nix/store/5zqr3a84xj9jqaj83ljvzq48wridn3jr-self-1.0," +
		"/nix/store/9gmlmsh7gl82ha8m4xdp0wqi0nqfags4-plain-1.0," +
		"/nix/store/rf4bn9h91ks9nbfgvsb0kzs1xkp78ari-tree"
	if got.Fingerprint() != fingerprint {
		t.Errorf("fingerprint %s\nwant %s", got.Fingerprint(), fingerprint)
	}
}

// What Nix wrote is taken and written again byte for byte, by its signatures'
// keys it is signed, and our signatures are Nix's.
func TestAgreesWithNix(t *testing.T) {
	keys := map[string]nix.PrivateKey{"test-1": nixtest.NewKey("test-1"), "other-1": nixtest.NewKey("other-1")}
	for name, text := range readTestdata(t) {
		t.Run(filepath.Base(name), func(t *testing.T) {
			n := mustParseNARInfo(t, text)
			if got := mustMarshal(t, n); !bytes.Equal(got, text) {
				t.Errorf("rendered as\n%s\nwant\n%s", got, text)
			}
			if len(n.Signatures) == 0 {
				t.Error("there is no signature")
			}
			for _, sig := range n.Signatures {
				key := keys[sig.KeyName]
				if signer, err := nixtest.Trust(key).Verify(n); signer != sig.KeyName || err != nil {
					t.Errorf("Verify = %q, %v, want %q", signer, err, sig.KeyName)
				}
				if got := key.Sign(n); got != sig {
					t.Errorf("signed as %v, Nix signed %v", got, sig)
				}
			}
			checkOtherParser(t, n, text)
		})
	}
}

// checkOtherParser compares with zombiezen.com/go/nix.
func checkOtherParser(t *testing.T, n *nix.NARInfo, text []byte) {
	t.Helper()
	var other zombie.NARInfo
	if err := other.UnmarshalText(text); err != nil {
		t.Errorf("zombiezen refuses it: %v", err)
		return
	}
	var fingerprint strings.Builder
	if err := other.WriteFingerprint(&fingerprint); err != nil || fingerprint.String() != n.Fingerprint() {
		t.Errorf("fingerprint %s, error %v\nours %s", fingerprint.String(), err, n.Fingerprint())
	}
	if other.URL != n.URL() || string(other.Compression) != n.Compression.String() || other.FileSize != n.FileSize ||
		other.FileHash.Base32() != n.FileHash.String() || other.CA.String() != n.CA.String() ||
		string(other.Deriver) != n.Deriver.String() || len(other.Sig) != len(n.Signatures) {
		t.Errorf("zombiezen reads %+v\nwe read %+v", other, n)
	}
}

// clientReading reads a narinfo as Nix's own loop does (libstore/nar-info.cc):
// a name up to the next colon anywhere, any one byte, a value up to the first
// newline not before the byte after that. It returns the fields' values.
func clientReading(text string) (fields map[string][]string, ok bool) {
	fields = map[string][]string{}
	for text != "" {
		colon := strings.IndexByte(text, ':')
		if colon < 0 || colon+2 > len(text) {
			return nil, false
		}
		value, rest, found := strings.Cut(text[colon+2:], "\n")
		if !found {
			return nil, false
		}
		fields[text[:colon]] = append(fields[text[:colon]], value)
		text = rest
	}
	return fields, true
}

// checkClientReading asserts that a client reads from the text what we have.
func checkClientReading(t *testing.T, n *nix.NARInfo, text string) {
	t.Helper()
	fields, ok := clientReading(text)
	if !ok {
		t.Errorf("a client calls this corrupt:\n%s", text)
		return
	}
	var references []string
	for _, r := range n.References {
		references = append(references, r.Base())
	}
	for name, want := range map[string]string{
		"StorePath": n.StorePath.String(), "URL": n.URL(), "Compression": n.Compression.String(),
		"FileHash": n.FileHash.String(), "FileSize": fmt.Sprint(n.FileSize),
		"NarHash": n.NARHash.String(), "NarSize": fmt.Sprint(n.NARSize), "References": strings.Join(references, " "),
	} {
		if got := fields[name]; len(got) != 1 || got[0] != want {
			t.Errorf("a client reads %s %q, we read %q", name, got, want)
		}
	}
	var sigs []string
	for _, sig := range n.Signatures {
		sigs = append(sigs, sig.String())
	}
	slices.Sort(fields["Sig"])
	if got := slices.Compact(fields["Sig"]); !slices.Equal(got, sigs) {
		t.Errorf("a client reads signatures %q, we read %q", got, sigs)
	}
	if got := strings.Join(fields["CA"], "|"); got != n.CA.String() {
		t.Errorf("a client reads CA %q, we read %q", got, n.CA)
	}
}

// What other writers do otherwise is taken, and rendered as Nix would.
func TestParseNARInfoOfOtherWriters(t *testing.T) {
	want := string(readTestdata(t)["testdata/nix-2.8/top_odd_name_2.0_x.vcj6pp.xz.narinfo"])
	lines := strings.SplitAfter(strings.TrimSuffix(want, "\n"), "\n")
	lines[len(lines)-1] += "\n"
	signature := lines[len(lines)-1]
	slices.Reverse(lines)
	reversed := strings.Join(lines, "")
	deriver := want[strings.Index(want, "Deriver: "):strings.Index(want, "Sig: ")]

	for name, test := range map[string]struct{ text, want string }{
		"reversed order":          {reversed, want},
		"System":                  {want + "System: x86_64-linux\n", want},
		"System first":            {"System: x86_64-linux\n" + want, want},
		"empty System":            {want + "System: \n", want},
		"equal signatures":        {want + signature + signature, want},
		"unknown deriver":         {strings.Replace(want, deriver, "Deriver: unknown-deriver\n", 1), strings.Replace(want, deriver, "", 1)},
		"no deriver":              {strings.Replace(want, deriver, "", 1), strings.Replace(want, deriver, "", 1)},
		"signature before fields": {signature + want, want},
	} {
		t.Run(name, func(t *testing.T) {
			n := mustParseNARInfo(t, []byte(test.text))
			if got := string(mustMarshal(t, n)); got != test.want {
				t.Errorf("rendered as\n%s\nwant\n%s", got, test.want)
			}
			if name != "unknown deriver" {
				checkClientReading(t, n, test.text)
			}
		})
	}
}

func TestParseNARInfoRequires(t *testing.T) {
	text := string(nixtest.NewPackage("hello-1.0", 10).Text())
	for line := range strings.Lines(text) {
		name, _, _ := strings.Cut(line, ":")
		_, err := nix.ParseNARInfo([]byte(strings.Replace(text, line, "", 1)))
		if err == nil || !strings.Contains(err.Error(), name+": expected") {
			t.Errorf("without %s: error %v, want one that names it", name, err)
		}
	}
}

func TestParseNARInfoCopiesItsInput(t *testing.T) {
	text := nixtest.NewPackage("hello-1.0", 10, nixtest.SignedBy(nixtest.NewKey("k"))).Text()
	want := string(text)
	n := mustParseNARInfo(t, text)
	clear(text)
	if got := string(mustMarshal(t, n)); got != want {
		t.Errorf("rendered as %s, want %s", got, want)
	}
}

// A narinfo put together by hand is sorted when it is written.
func TestMarshalSorts(t *testing.T) {
	a, b, c := nixtest.StorePath("a"), nixtest.StorePath("b"), nixtest.StorePath("c")
	k, other := nixtest.NewKey("a-key"), nixtest.NewKey("a")
	one := nixtest.NewPackage("hello-1.0", 10, nixtest.References(a, b, c), nixtest.SignedBy(k), nixtest.SignedBy(other)).NARInfo
	two := nixtest.NewPackage("hello-1.0", 10, nixtest.References(c, a, c, b), nixtest.SignedBy(other), nixtest.SignedBy(k), nixtest.SignedBy(other)).NARInfo
	if one.Fingerprint() != two.Fingerprint() || !one.SameSignedFields(two) {
		t.Error("the order of references changes the fingerprint")
	}
	text := mustMarshal(t, two)
	if !bytes.Equal(mustMarshal(t, one), text) {
		t.Error("the order of references and signatures changes the text")
	}
	if n := mustParseNARInfo(t, text); len(n.References) != 3 || len(n.Signatures) != 2 || n.Signatures[0].KeyName != "a-key" {
		t.Errorf("references %v, signatures %v", n.References, n.Signatures)
	}
}

func TestMarshalRefuses(t *testing.T) {
	for name, change := range map[string]func(*nix.NARInfo){
		"no StorePath":        func(n *nix.NARInfo) { n.StorePath = nix.StorePath{} },
		"unknown Compression": func(n *nix.NARInfo) { n.Compression = 99 },
		"no FileSize":         func(n *nix.NARInfo) { n.FileSize = 0 },
		"negative NARSize":    func(n *nix.NARInfo) { n.NARSize = -1 },
		"FileHash":            func(n *nix.NARInfo) { n.FileHash[0]++ },
		"FileSize":            func(n *nix.NARInfo) { n.FileSize++ },
		"zero reference":      func(n *nix.NARInfo) { n.References = []nix.StorePath{{}} },
		"Deriver":             func(n *nix.NARInfo) { n.Deriver = n.StorePath },
		"key name":            func(n *nix.NARInfo) { n.Signatures = []nix.Signature{{KeyName: "a\nURL"}} },
		"signatures":          func(n *nix.NARInfo) { n.Signatures = make([]nix.Signature, nix.MaxSignatures+1) },
		"CA":                  func(n *nix.NARInfo) { n.CA, _ = nix.ParseContentAddress("text:sha256:" + emptyHash) },
		"size of the whole": func(n *nix.NARInfo) {
			for i := range 10_000 {
				n.References = append(n.References, nixtest.StorePath(fmt.Sprint(strings.Repeat("n", 100), i)))
			}
		},
	} {
		n := nixtest.NewPackage("hello-1.0", 10).NARInfo
		change(n)
		text, err := n.AppendText([]byte("before"))
		if err == nil || string(text) != "before" {
			t.Errorf("%s: AppendText = %q, %v, want an error and nothing appended", name, text, err)
		} else {
			checkErrorText(t, err)
		}
	}
}

func TestSameSignedFields(t *testing.T) {
	n := nixtest.NewPackage("hello-1.0", 10)
	same := nixtest.NewPackage("hello-1.0", 10, nixtest.SignedBy(nixtest.NewKey("k")),
		nixtest.Compressed(nix.CompressionXZ, func([]byte) []byte { return []byte("squeezed") }))
	if !n.NARInfo.SameSignedFields(same.NARInfo) {
		t.Error("unsigned fields make a difference")
	}
	for name, other := range map[string]nixtest.Package{
		"NAR":        nixtest.NewPackage("hello-1.0", 11),
		"path":       nixtest.NewPackage("hello-1.1", 10),
		"references": nixtest.NewPackage("hello-1.0", 10, nixtest.References(nixtest.StorePath("a"))),
	} {
		if n.NARInfo.SameSignedFields(other.NARInfo) {
			t.Errorf("another %s makes no difference", name)
		}
	}
}

func FuzzParseNARInfo(f *testing.F) {
	for _, text := range readTestdata(f) {
		f.Add(text)
	}
	for _, a := range newAttackBase(f).Attacks() {
		f.Add([]byte(a.Text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		n, err := nix.ParseNARInfo(text)
		if err != nil {
			checkErrorText(t, err)
			return
		}
		rendered := mustMarshal(t, n)
		again := mustParseNARInfo(t, rendered)
		if !reflect.DeepEqual(again, n) {
			t.Errorf("read as %+v\nrendered and read again as %+v", n, again)
		}
		if twice := mustMarshal(t, again); !bytes.Equal(twice, rendered) {
			t.Errorf("rendered as\n%s\nand then as\n%s", rendered, twice)
		}
		if len(rendered) > len(text) {
			t.Errorf("the rendering of %d bytes has %d", len(text), len(rendered))
		}
		checkClientReading(t, n, string(rendered))
		checkClientReading(t, n, string(text))
		checkOtherParser(t, n, rendered)
	})
}

func benchmarkText(b *testing.B) []byte {
	return readTestdata(b)["testdata/nix-2.8/top_odd_name_2.0_x.vcj6pp.xz.narinfo"]
}

func BenchmarkParseNARInfo(b *testing.B) {
	text := benchmarkText(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := nix.ParseNARInfo(text); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkMarshalNARInfo(b *testing.B) {
	n := mustParseNARInfo(b, benchmarkText(b))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := n.MarshalText(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkVerify(b *testing.B) {
	n := mustParseNARInfo(b, benchmarkText(b))
	trusted := nixtest.Trust(nixtest.NewKey("test-1"))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := trusted.Verify(n); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParseCachePath(b *testing.B) {
	path := "nar/" + emptyHash + ".nar.zst"
	b.ReportAllocs()
	for b.Loop() {
		if _, err := nix.ParseCachePath(path); err != nil {
			b.Fatal(err)
		}
	}
}
