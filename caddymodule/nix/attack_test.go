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

// The attacks here are validly signed narinfos with something done to them that
// signatures don't cover, or that clients and checkers read differently. What
// each does to real clients is from runs of Nix 2.8 and 2.34.

// An attack is a text, and a part of the error that refuses it.
type attack struct{ name, text, want string }

// attackBase is what is attacked: narinfos Nix wrote, with and without
// references, and content-addressed ones.
type attackBase struct {
	refs, plain, none, text, fixed, texts, flatMD5 string
}

func newAttackBase(t testing.TB) attackBase {
	texts := readTestdata(t)
	file := func(name string) string { return string(texts["testdata/nix-2.8/"+name+".narinfo"]) }
	return attackBase{
		refs:    file("self-1.0.5zqr3a.xz"),
		plain:   file("plain-1.0.9gmlms.xz"),
		none:    file("plain-1.0.9gmlms.none"),
		text:    file("text.txt.46v3af.xz"),
		fixed:   file("tree.rf4bn9.xz"),
		texts:   file("texts.txt.4s7wsm.xz"),
		flatMD5: file("fixed-flat-md5.1r00ry.xz"),
	}
}

// edit replaces what occurs exactly once.
func edit(t testing.TB, text, old, replacement string) string {
	t.Helper()
	if strings.Count(text, old) != 1 {
		t.Fatalf("%q occurs %d times in\n%s", old, strings.Count(text, old), text)
	}
	return strings.Replace(text, old, replacement, 1)
}

// line returns the whole line of a field.
func line(t testing.TB, text, field string) string {
	t.Helper()
	for l := range strings.Lines(text) {
		if strings.HasPrefix(l, field+": ") {
			return l
		}
	}
	t.Fatalf("there is no %s in\n%s", field, text)
	return ""
}

// set gives a field another value.
func set(t testing.TB, text, field, value string) string {
	t.Helper()
	return edit(t, text, line(t, text, field), field+": "+value+"\n")
}

func checkAttacks(t *testing.T, attacks []attack) {
	t.Helper()
	for _, a := range attacks {
		t.Run(a.name, func(t *testing.T) {
			n, err := nix.ParseNARInfo([]byte(a.text))
			if err == nil {
				t.Fatalf("it is taken as %+v", n)
			}
			checkErrorText(t, err)
			if !strings.Contains(err.Error(), a.want) {
				t.Errorf("error %q, want %q in it", err, a.want)
			}
		})
	}
}

func TestAttackBaseIsTaken(t *testing.T) {
	b := newAttackBase(t)
	for _, text := range []string{b.refs, b.plain, b.none, b.text, b.fixed, b.texts, b.flatMD5} {
		mustParseNARInfo(t, []byte(text))
	}
}

// attacks returns all that a narinfo can show by itself.
func attacks(t testing.TB) []attack {
	b := newAttackBase(t)
	return slices.Concat(attacks01(t, b), attacks02(t, b), attacks03(t, b), attacks04(t, b), attacks05(t, b),
		attacks06(t, b), attacks08(t, b), attacks09(t, b))
}

// A content address is not signed, and a wrong one aborts clients.
func TestAttack01ContentAddressAppended(t *testing.T) {
	checkAttacks(t, attacks01(t, newAttackBase(t)))
}

func attacks01(t testing.TB, b attackBase) []attack {
	selfReference := func(text string) string {
		base := strings.TrimPrefix(strings.TrimSpace(line(t, text, "StorePath")), "StorePath: /nix/store/")
		return set(t, text, "References", base)
	}
	list := []attack{
		{"wrong recursive without references", b.plain + "CA: fixed:r:sha256:" + emptyHash + "\n", "CA: "},
		{"wrong recursive with references", b.refs + "CA: fixed:r:sha256:" + emptyHash + "\n", "CA: "},
		{"wrong flat", b.plain + "CA: fixed:sha256:" + emptyHash + "\n", "CA: "},
		{"wrong text", b.plain + "CA: text:sha256:" + emptyHash + "\n", "CA: "},
		{"text with a reference to itself", selfReference(b.text), "CA: expected no reference of a text to itself"},
		{"flat with references", set(t, b.flatMD5, "References", someHash+"-x"), "CA: expected no references"},
		{"recursive SHA-1 with references", set(t, b.plain, "References", someHash+"-x") + "CA: fixed:r:sha1:" + sha1Digits + "\n", "CA: expected no references"},
		{"digest is not the NAR's", set(t, b.fixed, "NarHash", "sha256:"+emptyHash), "CA: expected the NarHash"},
		{"references of another text", set(t, b.texts, "References", ""), "CA: "},
		{"empty", b.plain + "CA: \n", "CA: "},
		{"two", b.text + line(t, b.text, "CA"), "CA: expected it once"},
	}
	for _, text := range badContentAddresses {
		list = append(list, attack{fmt.Sprintf("malformed %q", text), b.plain + "CA: " + text + "\n", "CA: "})
	}
	return list
}

// An unknown compression aborts clients; a known one that is not the file's
// fails with some.
func TestAttack02Compression(t *testing.T) { checkAttacks(t, attacks02(t, newAttackBase(t))) }

func attacks02(t testing.TB, b attackBase) []attack {
	list := []attack{{"no line, which means bzip2", edit(t, b.plain, line(t, b.plain, "Compression"), ""), "Compression: expected it"}}
	for _, name := range []string{"foo", "", "XZ", "xz ", " xz", "compress", "grzip", "lrzip", "lzma", "lzop", "brotli", "zst", "gz", "identity"} {
		list = append(list, attack{fmt.Sprintf("%q", name), set(t, b.plain, "Compression", name), "Compression: "})
	}
	for _, name := range []string{"none", "zstd", "bzip2", "br", "gzip", "lzip", "lz4"} {
		list = append(list, attack{name + " with suffix .xz", set(t, b.plain, "Compression", name), "URL: "})
	}
	return append(list, attack{"xz without suffix", set(t, b.none, "Compression", "xz"), "URL: "})
}

// One malformed signature makes the whole narinfo an error for clients.
func TestAttack03MalformedSignature(t *testing.T) { checkAttacks(t, attacks03(t, newAttackBase(t))) }

func attacks03(_ testing.TB, b attackBase) []attack {
	var list []attack
	for _, bad := range badSignatures {
		want := "Sig: "
		if strings.Contains(bad.text, "\n") {
			want = "line" // it ends there
		}
		if strings.ContainsAny(bad.text, "\x00\t\r\xff\u00a0\ufeff\u2028") {
			want = "expected"
		}
		list = append(list, attack{bad.name, b.refs + "Sig: " + bad.text + "\n", want})
	}
	return list
}

// Clients don't read lines: they read a name up to the next colon, and a value
// up to the next newline.
func TestAttack04LineStructure(t *testing.T) { checkAttacks(t, attacks04(t, newAttackBase(t))) }

func attacks04(t testing.TB, b attackBase) []attack {
	before := func(field, inserted string) string { return edit(t, b.refs, "\n"+field+": ", "\n"+inserted+field+": ") }
	const printable = "expected printable characters"
	list := []attack{
		{"empty", "", "newline"},
		{"newline only", "\n", "Name: value"},
		{"no final newline", strings.TrimSuffix(b.refs, "\n"), "expected a newline at the end"},
		{"cut in a line", b.refs[:len(b.refs)-10], "expected a newline at the end"},
		{"blank line at the end", b.refs + "\n", "Name: value"},
		{"blank line at the beginning", "\n" + b.refs, "line 1: "},
		{"space at the end", b.refs + " \n", "Name: value"},
		{"byte order mark", "\ufeff" + b.refs, printable},
		{"carriage returns", strings.ReplaceAll(b.refs, "\n", "\r\n"), printable},
		{"one carriage return", edit(t, b.refs, "xz\nFileHash", "xz\r\nFileHash"), printable},
		{"NUL", b.refs + "System: a\x00b\n", printable},
		{"escape", b.refs + "System: \x1b[2J\n", printable},
		{"C1 control character", b.refs + "System: \u0085\n", printable},
		{"line separator", b.refs + "System: \u2028\n", printable},
		{"not UTF-8", b.refs + "System: \xff\n", "expected UTF-8"},
		{"unknown field", b.refs + "Foo: bar\n", `got "Foo"`},
		{"unknown field with a colon", b.refs + "Foo:StorePath: bar\n", "expected a field"},
		{"lower case", edit(t, b.refs, "NarSize: ", "narsize: "), "expected a field"},
		{"space before the name", edit(t, b.refs, "NarSize: ", " NarSize: "), "expected a field"},
		{"space before the colon", edit(t, b.refs, "NarSize: ", "NarSize : "), "expected a field"},
		{"comment", "# " + b.refs, "expected a field"},
	}
	for _, field := range []string{"References", "Sig", "NarHash", "URL", "Deriver"} {
		list = append(list,
			attack{"blank line before " + field, before(field, "\n"), "Name: value"},
			attack{"line without colon before " + field, before(field, "foo\n"), "Name: value"},
			attack{"empty value without space before " + field, before(field, "System:\n"), "Name: value"},
			attack{"no space in " + field, edit(t, b.refs, "\n"+field+": ", "\n"+field+":"), "Name: value"},
			attack{"tab in " + field, edit(t, b.refs, "\n"+field+": ", "\n"+field+":\t"), printable},
			attack{"other byte in " + field, edit(t, b.refs, "\n"+field+": ", "\n"+field+":#"), "Name: value"},
		)
	}
	return list
}

// These tricks are real: what a client reads is not what the lines say.
func TestAttack04ClientsReadOtherwise(t *testing.T) {
	b := newAttackBase(t)
	for _, inserted := range []string{"\n", "foo\n", "System:\n"} {
		fields, ok := clientReading(edit(t, b.refs, "\nReferences: ", "\n"+inserted+"References: "))
		if ok && len(fields["References"]) != 0 {
			t.Errorf("after %q a client still reads references", inserted)
		}
	}
}

// Of two equal fields clients take the last, or give up.
func TestAttack05DuplicateField(t *testing.T) { checkAttacks(t, attacks05(t, newAttackBase(t))) }

func attacks05(t testing.TB, b attackBase) []attack {
	var list []attack
	for _, field := range []string{"StorePath", "URL", "Compression", "FileHash", "FileSize", "NarHash", "NarSize", "References", "Deriver"} {
		l := line(t, b.refs, field)
		other := line(t, b.plain, field)
		want := field + ": expected it once"
		list = append(list,
			attack{field, b.refs + l, want},
			attack{field + ", other value last", b.refs + other, want},
			attack{field + ", other value first", other + b.refs, want},
		)
	}
	return append(list,
		attack{"System", b.refs + "System: a\nSystem: a\n", "System: expected it once"},
		attack{"unknown deriver, then another", b.plain + "Deriver: unknown-deriver\n", "Deriver: expected it once"},
		attack{"empty references, then others", b.plain + line(t, b.refs, "References"), "References: expected it once"},
	)
}

// A URL may lead clients to another object, host or a file of their own.
func TestAttack06URL(t *testing.T) { checkAttacks(t, attacks06(t, newAttackBase(t))) }

func attacks06(t testing.TB, b attackBase) []attack {
	url := strings.TrimSuffix(strings.TrimPrefix(line(t, b.plain, "URL"), "URL: "), "\n")
	file := strings.TrimPrefix(url, "nar/")
	var list []attack
	for _, bad := range []string{
		"", " ", " " + url, url + " ", "/" + url, "./" + url, "../" + url, "nar/../" + url, "nar//" + file, "nar/./" + file,
		"nar/%2e%2e/" + url, "nar%2F" + file, strings.ToUpper(url), file, "nar/" + emptyHash + ".nar.xz",
		url + "?hash=x", url + "?", url + "#", url + "#x", url + "/", url + ".xz", strings.TrimSuffix(url, ".xz"),
		"http://evil.example/" + url, "https://evil.example/" + url, "//evil.example/" + url,
		"file:///etc/passwd", "s3://bucket/" + url, "data:,x", "http:" + url, "\\\\evil\\" + url,
		strings.Repeat("nar/", 1000), "nar/\u202e" + file,
	} {
		want := "URL: expected " + url
		if strings.Contains(bad, "\u202e") {
			want = "expected printable characters"
		}
		list = append(list, attack{fmt.Sprintf("%.40q", bad), set(t, b.plain, "URL", bad), want})
	}
	return list
}

// A valid narinfo of one path can be put under another's name.
func TestAttack07OtherName(t *testing.T) {
	b := newAttackBase(t)
	n := mustParseNARInfo(t, []byte(b.refs))
	own, err := nix.ParseCachePath("5zqr3a84xj9jqaj83ljvzq48wridn3jr.narinfo")
	if err != nil {
		t.Fatal(err)
	}
	if nix.NARInfoPath(n.StorePath) != own {
		t.Errorf("NARInfoPath = %v, want %v", nix.NARInfoPath(n.StorePath), own)
	}
	other := nix.NARInfoPath(mustParseNARInfo(t, []byte(b.plain)).StorePath)
	if other == own {
		t.Errorf("two store paths have the one narinfo %v", own)
	}
}

// Of every value there is one spelling.
func TestAttack08Spelling(t *testing.T) { checkAttacks(t, attacks08(t, newAttackBase(t))) }

func attacks08(t testing.TB, b attackBase) []attack {
	values := func(field string) string {
		return strings.TrimSuffix(strings.TrimPrefix(line(t, b.refs, field), field+": "), "\n")
	}
	refs := strings.Fields(values("References"))
	path := values("StorePath")
	base := strings.TrimPrefix(path, nix.StoreDir+"/")
	const unsorted = "References: expected them sorted and each once"

	var list []attack
	add := func(field, want string, values ...string) {
		for _, value := range values {
			list = append(list, attack{fmt.Sprintf("%s %.60q", field, value), set(t, b.refs, field, value), want})
		}
	}
	for _, field := range []string{"FileSize", "NarSize"} {
		add(field, field+": expected a decimal number",
			"", "0", "00", "01", "+1", "-1", " 1", "1 ", "1.0", "1e3", "0x10", "1_000", "1,000", "9223372036854775808", "18446744073709551616", "١")
	}
	for _, field := range []string{"FileHash", "NarHash"} {
		add(field, field+": expected",
			"", emptyHash, "sha1:"+sha1Digits, "md5:"+md5Digits, "sha512:"+sha512Digits, "SHA256:"+emptyHash, "sha256: "+emptyHash, "sha256:"+emptyHash+" ",
			"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
			"sha256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=", "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
			"sha256:z"+emptyHash[1:], "sha256:"+strings.ToUpper(emptyHash))
	}
	add("StorePath", "StorePath: expected",
		"", base, path+"/", path+"/bin", "/nix/store/../store/"+base, "/nix//store/"+base, "/nix/store/./"+base, "/gnu/store/"+base,
		"/nix/store/"+someHash, "/nix/store/"+someHash+"-", "/nix/store/"+someHash+"-..", "/nix/store/"+someHash+"-"+strings.Repeat("x", 212), "/nix/store/E"+base[1:], path+" ", " "+path)
	add("References", unsorted, refs[1]+" "+refs[0], refs[0]+" "+refs[0], refs[0]+" "+refs[1]+" "+refs[1])
	add("References", "References: expected",
		" ", refs[0]+"  "+refs[1], refs[0]+" ", " "+refs[0], "/nix/store/"+refs[0], refs[0]+","+refs[1], someHash, someHash+"-", someHash+"-.")
	add("References", "expected printable characters", refs[0]+"\t"+refs[1])
	add("Deriver", "Deriver: expected",
		"", base, "/nix/store/"+base+".drv", someHash+"-.drv/", someHash+"-x.drv ", "x.drv", someHash+"-x.drv!out", someHash+"-x.DRV", "Unknown-deriver")
	return list
}

// What is not signed may be a lie; a part of it contradicts the rest.
func TestAttack09UnsignedLies(t *testing.T) { checkAttacks(t, attacks09(t, newAttackBase(t))) }

func attacks09(t testing.TB, b attackBase) []attack {
	lie := "sha256:" + emptyHash
	return []attack{
		{"FileHash is not the URL's", set(t, b.refs, "FileHash", lie), "URL: expected nar/" + emptyHash},
		{"uncompressed, but FileHash is not NarHash", set(t, set(t, b.none, "FileHash", lie), "URL", "nar/"+emptyHash+".nar"), "FileHash: expected the NarHash"},
		{"uncompressed, but FileSize is not NarSize", set(t, b.none, "FileSize", "1"), "FileSize: expected the NarSize"},
		{"no FileHash", edit(t, b.refs, line(t, b.refs, "FileHash"), ""), "FileHash: expected it"},
		{"no FileSize", edit(t, b.refs, line(t, b.refs, "FileSize"), ""), "FileSize: expected it"},
	}
}

// Whose truth only the NAR's file shows, or nobody: clients take them as they are.
func TestAttack09WhatIsTaken(t *testing.T) {
	b := newAttackBase(t)
	for field, value := range map[string]string{"FileSize": "1", "Deriver": someHash + "-evil.drv"} {
		lied := mustParseNARInfo(t, []byte(set(t, b.refs, field, value)))
		if !lied.SameSignedFields(mustParseNARInfo(t, []byte(b.refs))) {
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
func TestAttack12Size(t *testing.T) {
	b := newAttackBase(t)
	var sigs, refs strings.Builder
	for i := range 100_000 {
		fmt.Fprintf(&sigs, "Sig: k%d:%s\n", i, someSignature)
		fmt.Fprintf(&refs, " %s-%d", someHash, i)
	}
	many := sigs.String()
	checkAttacks(t, []attack{
		{"100,000 signatures", b.refs + many, fmt.Sprintf("at most %d bytes", nix.MaxNARInfoSize)},
		{"1,000 signatures or so", b.refs + many[:strings.LastIndexByte(many[:100_000], '\n')+1], "Sig: expected at most 64"},
		{"one signature a thousand times", b.refs + strings.Repeat(line(t, b.refs, "Sig"), 1000), "Sig: expected at most 64"},
		{"100,000 references", set(t, b.refs, "References", refs.String()[1:]), fmt.Sprintf("at most %d bytes", nix.MaxNARInfoSize)},
		{"long line", b.refs + "System: " + strings.Repeat("x", nix.MaxNARInfoSize) + "\n", fmt.Sprintf("at most %d bytes", nix.MaxNARInfoSize)},
		{"long unknown name", b.refs + strings.Repeat("x", nix.MaxNARInfoSize/2) + ": \n", "expected a field"},
		{"long invalid reference", set(t, b.refs, "References", strings.Repeat("x", nix.MaxNARInfoSize/2)), "References: expected"},
	})
}

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
