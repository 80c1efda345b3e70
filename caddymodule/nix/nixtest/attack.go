package nixtest

import (
	"fmt"
	"slices"
	"strings"

	"github.com/stevedores-org/nix-cache/caddymodule/nix"
)

// Attack is a narinfo that a cache must refuse by its text alone: a validly
// signed one with something done to it that signatures don't cover, or that
// clients and checkers read differently. What each does to real clients is from
// runs of Nix 2.8 and 2.34.
type Attack struct {
	Point int // of the list of attacks that the tests are named after
	Name  string
	Text  string
	Want  string // a part of the error that refuses it
}

// AttackBase is what is attacked: valid narinfos, signed, whose NARs are
// compressed with xz, but for None.
type AttackBase struct {
	Refs    string // has two references or more, a deriver and signatures
	Plain   string // has neither references nor a content address
	None    string // is not compressed
	Text    string // is content-addressed, text:sha256 without references
	Fixed   string // fixed:r:sha256
	Texts   string // text:sha256 with references
	FlatMD5 string // fixed:md5
}

// Victims are packages to make an AttackBase of.
type Victims struct{ Refs, Plain, None, Text, Fixed, Texts, FlatMD5 Package }

// NewVictims returns packages that are signed by key and compressed by xz.
func NewVictims(key nix.PrivateKey) Victims {
	deriver := func(p *Package) { p.NARInfo.Deriver = StorePath(p.NARInfo.StorePath.Name() + ".drv") }
	references := References(StorePath("lib"), StorePath("doc"))
	victim := func(name string, options ...Option) Package {
		return NewPackage(name, 1000, append(options, SignedBy(key))...)
	}
	packed := Compressed(nix.CompressionXZ, XZ)
	return Victims{
		Refs:    victim("refs", packed, references, deriver),
		Plain:   victim("plain", packed, deriver),
		None:    victim("none", deriver),
		Text:    victim("text", packed, ContentAddressed("text:sha256")),
		Fixed:   victim("fixed", packed, ContentAddressed("fixed:r:sha256")),
		Texts:   victim("texts", packed, references, ContentAddressed("text:sha256")),
		FlatMD5: victim("flat-md5", packed, ContentAddressed("fixed:md5")),
	}
}

// All returns the packages.
func (v Victims) All() []Package {
	return []Package{v.Refs, v.Plain, v.None, v.Text, v.Fixed, v.Texts, v.FlatMD5}
}

// Base returns their narinfos.
func (v Victims) Base() AttackBase {
	return AttackBase{
		Refs:    string(v.Refs.Text()),
		Plain:   string(v.Plain.Text()),
		None:    string(v.None.Text()),
		Text:    string(v.Text.Text()),
		Fixed:   string(v.Fixed.Text()),
		Texts:   string(v.Texts.Text()),
		FlatMD5: string(v.FlatMD5.Text()),
	}
}

// Attacks returns all that a narinfo can show by itself.
func (b AttackBase) Attacks() []Attack {
	return slices.Concat(b.attacks01(), b.attacks02(), b.attacks03(), b.attacks04(), b.attacks05(),
		b.attacks06(), b.attacks08(), b.attacks09())
}

func (b AttackBase) attacks01() []Attack {
	selfReference := func(text string) string {
		base := strings.TrimPrefix(strings.TrimSpace(line(text, "StorePath")), "StorePath: /nix/store/")
		return set(text, "References", base)
	}
	list := []Attack{
		{1, "wrong recursive without references", b.Plain + "CA: fixed:r:sha256:" + emptyHash + "\n", "CA: "},
		{1, "wrong recursive with references", b.Refs + "CA: fixed:r:sha256:" + emptyHash + "\n", "CA: "},
		{1, "wrong flat", b.Plain + "CA: fixed:sha256:" + emptyHash + "\n", "CA: "},
		{1, "wrong text", b.Plain + "CA: text:sha256:" + emptyHash + "\n", "CA: "},
		{1, "text with a reference to itself", selfReference(b.Text), "CA: expected no reference of a text to itself"},
		{1, "flat with references", set(b.FlatMD5, "References", someHash+"-x"), "CA: expected no references"},
		{1, "recursive SHA-1 with references", set(b.Plain, "References", someHash+"-x") + "CA: fixed:r:sha1:" + sha1Digits + "\n", "CA: expected no references"},
		{1, "digest is not the NAR's", set(b.Fixed, "NarHash", "sha256:"+emptyHash), "CA: expected the NarHash"},
		{1, "references of another text", set(b.Texts, "References", ""), "CA: "},
		{1, "empty", b.Plain + "CA: \n", "CA: "},
		{1, "two", b.Text + line(b.Text, "CA"), "CA: expected it once"},
	}
	for _, text := range BadContentAddresses {
		list = append(list, Attack{1, fmt.Sprintf("malformed %q", text), b.Plain + "CA: " + text + "\n", "CA: "})
	}
	return list
}

func (b AttackBase) attacks02() []Attack {
	list := []Attack{{2, "no line, which means bzip2", edit(b.Plain, line(b.Plain, "Compression"), ""), "Compression: expected it"}}
	for _, name := range []string{"foo", "", "XZ", "xz ", " xz", "compress", "grzip", "lrzip", "lzma", "lzop", "brotli", "zst", "gz", "identity"} {
		list = append(list, Attack{2, fmt.Sprintf("%q", name), set(b.Plain, "Compression", name), "Compression: "})
	}
	for _, name := range []string{"none", "zstd", "bzip2", "br", "gzip", "lzip", "lz4"} {
		list = append(list, Attack{2, name + " with suffix .xz", set(b.Plain, "Compression", name), "URL: "})
	}
	return append(list, Attack{2, "xz without suffix", set(b.None, "Compression", "xz"), "URL: "})
}

func (b AttackBase) attacks03() []Attack {
	var list []Attack
	for _, bad := range BadSignatures {
		want := "Sig: "
		if strings.Contains(bad.Text, "\n") {
			want = "line" // it ends there
		}
		if strings.ContainsAny(bad.Text, "\x00\t\r\xff\u00a0\ufeff\u2028") {
			want = "expected"
		}
		list = append(list, Attack{3, bad.Name, b.Refs + "Sig: " + bad.Text + "\n", want})
	}
	return list
}

func (b AttackBase) attacks04() []Attack {
	before := func(field, inserted string) string { return edit(b.Refs, "\n"+field+": ", "\n"+inserted+field+": ") }
	const printable = "expected printable characters"
	list := []Attack{
		{4, "empty", "", "newline"},
		{4, "newline only", "\n", "Name: value"},
		{4, "no final newline", strings.TrimSuffix(b.Refs, "\n"), "expected a newline at the end"},
		{4, "cut in a line", b.Refs[:len(b.Refs)-10], "expected a newline at the end"},
		{4, "blank line at the end", b.Refs + "\n", "Name: value"},
		{4, "blank line at the beginning", "\n" + b.Refs, "line 1: "},
		{4, "space at the end", b.Refs + " \n", "Name: value"},
		{4, "byte order mark", "\ufeff" + b.Refs, printable},
		{4, "carriage returns", strings.ReplaceAll(b.Refs, "\n", "\r\n"), printable},
		{4, "one carriage return", edit(b.Refs, "xz\nFileHash", "xz\r\nFileHash"), printable},
		{4, "NUL", b.Refs + "System: a\x00b\n", printable},
		{4, "escape", b.Refs + "System: \x1b[2J\n", printable},
		{4, "C1 control character", b.Refs + "System: \u0085\n", printable},
		{4, "line separator", b.Refs + "System: \u2028\n", printable},
		{4, "not UTF-8", b.Refs + "System: \xff\n", "expected UTF-8"},
		{4, "unknown field", b.Refs + "Foo: bar\n", `got "Foo"`},
		{4, "unknown field with a colon", b.Refs + "Foo:StorePath: bar\n", "expected a field"},
		{4, "lower case", edit(b.Refs, "NarSize: ", "narsize: "), "expected a field"},
		{4, "space before the name", edit(b.Refs, "NarSize: ", " NarSize: "), "expected a field"},
		{4, "space before the colon", edit(b.Refs, "NarSize: ", "NarSize : "), "expected a field"},
		{4, "comment", "# " + b.Refs, "expected a field"},
	}
	for _, field := range []string{"References", "Sig", "NarHash", "URL", "Deriver"} {
		list = append(list,
			Attack{4, "blank line before " + field, before(field, "\n"), "Name: value"},
			Attack{4, "line without colon before " + field, before(field, "foo\n"), "Name: value"},
			Attack{4, "empty value without space before " + field, before(field, "System:\n"), "Name: value"},
			Attack{4, "no space in " + field, edit(b.Refs, "\n"+field+": ", "\n"+field+":"), "Name: value"},
			Attack{4, "tab in " + field, edit(b.Refs, "\n"+field+": ", "\n"+field+":\t"), printable},
			Attack{4, "other byte in " + field, edit(b.Refs, "\n"+field+": ", "\n"+field+":#"), "Name: value"},
		)
	}
	return list
}

func (b AttackBase) attacks05() []Attack {
	var list []Attack
	for _, field := range []string{"StorePath", "URL", "Compression", "FileHash", "FileSize", "NarHash", "NarSize", "References", "Deriver"} {
		l := line(b.Refs, field)
		other := line(b.Plain, field)
		want := field + ": expected it once"
		list = append(list,
			Attack{5, field, b.Refs + l, want},
			Attack{5, field + ", other value last", b.Refs + other, want},
			Attack{5, field + ", other value first", other + b.Refs, want},
		)
	}
	return append(list,
		Attack{5, "System", b.Refs + "System: a\nSystem: a\n", "System: expected it once"},
		Attack{5, "unknown deriver, then another", b.Plain + "Deriver: unknown-deriver\n", "Deriver: expected it once"},
		Attack{5, "empty references, then others", b.Plain + line(b.Refs, "References"), "References: expected it once"},
	)
}

func (b AttackBase) attacks06() []Attack {
	url := strings.TrimSuffix(strings.TrimPrefix(line(b.Plain, "URL"), "URL: "), "\n")
	file := strings.TrimPrefix(url, "nar/")
	var list []Attack
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
		list = append(list, Attack{6, fmt.Sprintf("%.40q", bad), set(b.Plain, "URL", bad), want})
	}
	return list
}

func (b AttackBase) attacks08() []Attack {
	values := func(field string) string {
		return strings.TrimSuffix(strings.TrimPrefix(line(b.Refs, field), field+": "), "\n")
	}
	refs := strings.Fields(values("References"))
	path := values("StorePath")
	base := strings.TrimPrefix(path, nix.StoreDir+"/")
	const unsorted = "References: expected them sorted and each once"

	var list []Attack
	add := func(field, want string, values ...string) {
		for _, value := range values {
			list = append(list, Attack{8, fmt.Sprintf("%s %.60q", field, value), set(b.Refs, field, value), want})
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

func (b AttackBase) attacks09() []Attack {
	lie := "sha256:" + emptyHash
	return []Attack{
		{9, "FileHash is not the URL's", set(b.Refs, "FileHash", lie), "URL: expected nar/" + emptyHash},
		{9, "uncompressed, but FileHash is not NarHash", set(set(b.None, "FileHash", lie), "URL", "nar/"+emptyHash+".nar"), "FileHash: expected the NarHash"},
		{9, "uncompressed, but FileSize is not NarSize", set(b.None, "FileSize", "1"), "FileSize: expected the NarSize"},
		{9, "no FileHash", edit(b.Refs, line(b.Refs, "FileHash"), ""), "FileHash: expected it"},
		{9, "no FileSize", edit(b.Refs, line(b.Refs, "FileSize"), ""), "FileSize: expected it"},
	}
}

// Floods returns narinfos that would cost much time or memory, of which some are
// larger than a narinfo can be.
func (b AttackBase) Floods() []Attack {
	var sigs, refs strings.Builder
	for i := range 100_000 {
		fmt.Fprintf(&sigs, "Sig: k%d:%s\n", i, someSignature)
		fmt.Fprintf(&refs, " %s-%d", someHash, i)
	}
	many := sigs.String()
	tooLarge := fmt.Sprintf("at most %d bytes", nix.MaxNARInfoSize)
	return []Attack{
		{12, "100,000 signatures", b.Refs + many, tooLarge},
		{12, "1,000 signatures or so", b.Refs + many[:strings.LastIndexByte(many[:100_000], '\n')+1], "Sig: expected at most 64"},
		{12, "one signature a thousand times", b.Refs + strings.Repeat(line(b.Refs, "Sig"), 1000), "Sig: expected at most 64"},
		{12, "100,000 references", set(b.Refs, "References", refs.String()[1:]), tooLarge},
		{12, "long line", b.Refs + "System: " + strings.Repeat("x", nix.MaxNARInfoSize) + "\n", tooLarge},
		{12, "long unknown name", b.Refs + strings.Repeat("x", nix.MaxNARInfoSize/2) + ": \n", "expected a field"},
		{12, "long invalid reference", set(b.Refs, "References", strings.Repeat("x", nix.MaxNARInfoSize/2)), "References: expected"},
	}
}

// edit replaces what occurs exactly once.
func edit(text, old, replacement string) string {
	if n := strings.Count(text, old); n != 1 {
		panic(fmt.Sprintf("nixtest: %q occurs %d times in\n%s", old, n, text))
	}
	return strings.Replace(text, old, replacement, 1)
}

// line returns the whole line of a field.
func line(text, field string) string {
	for l := range strings.Lines(text) {
		if strings.HasPrefix(l, field+": ") {
			return l
		}
	}
	panic(fmt.Sprintf("nixtest: there is no %s in\n%s", field, text))
}

// set gives a field another value.
func set(text, field, value string) string {
	return edit(text, line(text, field), field+": "+value+"\n")
}

// Digests of nothing, and others that are well-formed.
const (
	emptyHash     = "0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73"
	md5Digits     = "3y8bwfr609h3lh9ch0izcqq7fl"
	sha1Digits    = "143xibwh31h9bvxzalr0sjvbbvpa6ffs"
	sha512Digits  = "0zdl9zrg8r3i9c1g90lgg9ip5ijzv3yhz91i0zzn3r8ap9ws784gkp9dk9j3aglhgf1amqb0pj21mh7h1nxcl18akqvvf7ggqsy30yg"
	someHash      = "s66mzxpvicwk07gjbjfw9izjfa797vsw"
	someSignature = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4vMDEyMzQ1Njc4OTo7PD0+Pw=="
)

// BadSignatures are the values of Sig lines that make a narinfo unusable for
// clients.
var BadSignatures = []struct{ Name, Text string }{
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
	{"name of 256 bytes", strings.Repeat("k", 256) + ":" + someSignature},
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

// BadContentAddresses are the malformed values of CA lines.
var BadContentAddresses = []string{
	"", ":", "text", "text:", "fixed:", "fixed:r:", "sha256:" + emptyHash, "text:" + emptyHash,
	"text:md5:" + md5Digits, "text:sha1:" + sha1Digits, "text:sha512:" + sha512Digits, "text:r:sha256:" + emptyHash,
	"fixed:git:sha1:" + sha1Digits, "fixed:git:sha256:" + emptyHash, "fixed:x:sha256:" + emptyHash, "fixed:r:r:sha256:" + emptyHash,
	"fixed:blake3:" + emptyHash, "fixed:sha256:" + md5Digits, "fixed:md5:" + emptyHash, "fixed:sha256-" + emptyHash,
	"fixed:sha256:" + strings.Repeat("z", 52), "fixed:sha256:" + emptyHash + ":", "fixed:sha256:" + emptyHash + " ", " fixed:sha256:" + emptyHash,
	"FIXED:sha256:" + emptyHash, "fixed:SHA256:" + emptyHash, "fixed::" + emptyHash, "fixed:sha256::" + emptyHash,
	"fixed:sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
	"fixed:sha256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
}
