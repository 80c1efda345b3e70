package caddymodule

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	zombie "zombiezen.com/go/nix"

	"github.com/stevedores-org/nix-cache/caddymodule/cache"
	"github.com/stevedores-org/nix-cache/caddymodule/nix"
	"github.com/stevedores-org/nix-cache/caddymodule/nix/nixtest"
	"github.com/stevedores-org/nix-cache/caddymodule/origin/origintest"
	"github.com/stevedores-org/nix-cache/caddymodule/upload"
)

// FuzzPutNARInfo sends a narinfo through the handler. Whatever is stored, a
// strict reader accepts, a trusted key signed, and its NAR is what was signed;
// what is refused changes nothing.
//
// The narinfo is that of a victim, changed by edits: pairs of a field's number
// and of the number of one of its values, good and bad ones of all victims. Most
// of them are signed by the trusted key after that, so that what comes after the
// check of signatures is reached. If raw is not empty, it takes the place of a
// value, or of the whole.
//
// There are few seeds, since a fuzzing engine takes 30 ms for each of them:
// [TestPutNARInfoEdited] has all attacks.
func FuzzPutNARInfo(f *testing.F) {
	c := newFuzzCache(f)
	for i := range byte(len(c.victims)) {
		f.Add(i, byte(signTrusted), []byte{}, []byte{})
	}
	for how := range byte(modes) {
		f.Add(byte(0), how, []byte{}, c.victims[0].Text())
	}
	for field := range fuzzFields {
		f.Add(byte(field), byte(signTrusted), []byte{byte(field), byte(field)}, []byte("System: \n"))
	}
	f.Fuzz(func(t *testing.T, victim, how byte, edits, raw []byte) { c.attack(t, victim, how, edits, raw) })
}

// TestPutNARInfoEdited is [FuzzPutNARInfo] with each value of each field, each way
// to sign, the attacks as they are, and each NAR under each of its names.
func TestPutNARInfoEdited(t *testing.T) {
	c := newFuzzCache(t)
	for i := range byte(len(c.victims)) {
		for how := range 256 {
			c.attack(t, i, byte(how), nil, nil)
		}
		for field := range fuzzFields {
			for value := range c.values[field] {
				c.attack(t, i, signTrusted, []byte{byte(field), byte(value)}, nil)
			}
		}
		for suffix := range otherNames {
			for compression := range 4 { // those of the victims come first
				edits := []byte{fieldURL, i*byte(len(otherNames)) + byte(suffix), fieldCompression, byte(compression)}
				c.attack(t, i|afterHonest, signTrusted, edits, nil)
			}
		}
		for _, a := range c.attacks {
			if !strings.Contains(a.Text, c.victims[i].NARInfo.StorePath.Hash()) {
				continue // sent to another path, all of them are refused for that
			}
			c.attack(t, i, sendRaw, nil, []byte(a.Text))
		}
	}
}

// How a narinfo is made and sent: one of these, and of the bits above.
const (
	signTrusted = iota // by the trusted key, whatever the fields have become
	signForeign        // by a key that nobody trusts
	signWrong          // by a foreign key in the trusted one's name
	signBoth           // rightly, and once more wrongly
	signNot            // with the victim's own signature, of other fields perhaps
	sendRaw            // raw alone
	modes
)

const (
	bitChunked = 1 << (iota + 3)
	bitEncoded
	bitSigned    // there already is the victim, signed by another trusted key
	bitDivergent // there already is another build of the victim; with bitSigned, no narinfo
)

// afterHonest is the bit of a victim's number that has the victim itself uploaded,
// and removed, before: what was learned of its NAR must not serve the attack.
const afterHonest = 1 << 7

var fuzzFields = []string{"StorePath", "URL", "Compression", "FileHash", "FileSize", "NarHash", "NarSize", "References", "Deriver", "CA", "Sig", "System", ""}

// fieldURL and fieldCompression are numbers of fields.
const fieldURL, fieldCompression = 1, 2

// otherNames are suffixes under which each NAR's file lies at the origin, whatever
// its compression.
var otherNames = []string{"", ".xz", ".zst"}

const fuzzToken = "secret"

var (
	fuzzKey     = nixtest.NewKey("test-1")
	fuzzKey2    = nixtest.NewKey("test-2")
	fuzzForeign = nixtest.NewKey("foreign-1")
)

// fuzzCache is a handler over an origin in memory that has the victims' NARs.
type fuzzCache struct {
	handler *Handler
	origin  *origintest.Memory
	victims []nixtest.Package

	divergent nixtest.Package // what another build of each victim came to

	attacks []nixtest.Attack
	values  [][]string        // by field
	content map[string][]byte // of each NAR, decompressed, by URL
	nars    []string          // paths of all that is at the origin throughout
	trusted []*zombie.PublicKey
}

func newFuzzCache(tb testing.TB) *fuzzCache {
	tb.Helper()
	v := nixtest.NewVictims(fuzzKey)
	c := &fuzzCache{origin: origintest.NewMemory(), attacks: v.Base().Attacks(), content: map[string][]byte{}}
	c.victims = append(v.All(),
		nixtest.NewPackage("zstd", 500, nixtest.Compressed(nix.CompressionZstd, nixtest.Zstd), nixtest.SignedBy(fuzzKey)),
		nixtest.NewPackage("gzip", 500, nixtest.Compressed(nix.CompressionGzip, nixtest.Gzip), nixtest.SignedBy(fuzzKey)),
		nixtest.NewPackage("zstd", 501, nixtest.Compressed(nix.CompressionZstd, nixtest.Zstd), nixtest.SignedBy(fuzzKey)))
	c.divergent = nixtest.NewPackage("divergent", 999)
	for _, p := range append(c.victims, c.divergent) {
		c.origin.Put(p.NARInfo.URL(), p.File)
		c.content[p.NARInfo.URL()] = p.NAR
		for _, suffix := range otherNames {
			c.origin.Put("nar/"+p.NARInfo.FileHash.Base32()+".nar"+suffix, p.File)
		}
	}
	c.nars = c.origin.Paths()
	c.values = fuzzValues(c.victims, c.attacks)
	for _, key := range []nix.PrivateKey{fuzzKey, fuzzKey2} {
		public, err := zombie.ParsePublicKey(key.PublicKey().String())
		if err != nil {
			tb.Fatal(err)
		}
		c.trusted = append(c.trusted, public)
	}
	c.handler = fuzzHandler(tb, c.origin)
	return c
}

func fuzzHandler(tb testing.TB, m *origintest.Memory) *Handler {
	tb.Helper()
	log := slog.New(slog.DiscardHandler)
	tier := cache.New("", cache.Limits{Memory: 1 << 20}, log)
	tb.Cleanup(func() { tier.Close() })
	h := &Handler{
		UploadToken:       fuzzToken,
		TrustedPublicKeys: []Value{Value(fuzzKey.PublicKey().String()), Value(fuzzKey2.PublicKey().String())},
		origin:            m,
		metrics:           newHandlerMetrics("fuzz", new(cache.Counters)),
		statuses:          newCacheStatuses(defaultName),
		log:               log,
		failures:          &failureLog{log: log},
		missing:           newMissingNARs(),
		refused:           new(refusals),
		ready:             newReadiness(m, log, func(bool) {}),
	}
	tb.Cleanup(h.ready.end)
	var err error
	if h.set, err = h.resolve(caddy.NewReplacer()); err != nil {
		tb.Fatal(err)
	}
	h.receiver = &upload.Receiver{Origin: cache.WriteThrough(m, h.parts), TrustedKeys: h.set.trustedKeys, MaxSize: 1 << 20, Log: log}
	h.files = tier.Namespace("fuzz", m, cache.Policy{}, h.metrics.fills, log)
	return h
}

// fuzzValues returns each field's values, those of the victims first, then those
// that the attacks gave it.
func fuzzValues(victims []nixtest.Package, attacks []nixtest.Attack) [][]string {
	var texts []string
	for _, p := range victims {
		texts = append(texts, string(p.Text()))
	}
	for _, a := range attacks {
		texts = append(texts, a.Text)
	}
	values := make([][]string, len(fuzzFields))
	for _, p := range victims {
		for _, suffix := range otherNames {
			values[fieldURL] = append(values[fieldURL], "nar/"+p.NARInfo.FileHash.Base32()+".nar"+suffix)
		}
	}
	for i, field := range fuzzFields {
		for _, text := range texts {
			for line := range strings.Lines(text) {
				value, ok := strings.CutPrefix(line, field+": ")
				value = strings.TrimSuffix(value, "\n")
				if ok && field != "" && !slices.Contains(values[i], value) && len(values[i]) < 250 {
					values[i] = append(values[i], value)
				}
			}
		}
	}
	return values
}

// attack sends one narinfo and looks at what became of it.
func (c *fuzzCache) attack(t *testing.T, victim, how byte, edits, raw []byte) {
	p := c.victims[int(victim&^afterHonest)%len(c.victims)]
	path := nix.NARInfoPath(p.NARInfo.StorePath).String()
	text := c.narinfo(p, how&7%modes, edits, raw)
	if victim&afterHonest != 0 {
		if w := c.put(path, p.Text(), signTrusted); w.Code != http.StatusCreated {
			t.Fatalf("the victim itself: status %d: %s", w.Code, w.Body)
		}
		c.origin.Remove(path)
	}
	defer c.origin.Remove(path)
	switch {
	case how&bitSigned != 0 && how&bitDivergent != 0:
		c.origin.Put(path, []byte("garbage"))
	case how&bitSigned != 0:
		c.origin.Put(path, signedAgain(*p.NARInfo).Text())
	case how&bitDivergent != 0:
		other := *c.divergent.NARInfo
		other.StorePath = p.NARInfo.StorePath
		c.origin.Put(path, signedAgain(other).Text())
	}
	before := c.snapshot()

	w := c.put(path, text, how)
	switch w.Code {
	case http.StatusCreated, http.StatusOK:
		c.wantServed(t, path)
	case http.StatusBadRequest, http.StatusConflict, http.StatusRequestEntityTooLarge, http.StatusUnprocessableEntity:
		line := strings.TrimSuffix(w.Body.String(), "\n")
		if line == "" || len(line) >= 1024 || strings.ContainsAny(line, "\n\r") {
			t.Errorf("status %d, and the body is not one short line: %q", w.Code, line)
		}
		if c.snapshot() != before {
			t.Errorf("status %d, and the origin has changed", w.Code)
		}
	default:
		t.Errorf("status %d: %s", w.Code, w.Body)
	}
	after := c.origin.Paths()
	if i := slices.Index(after, path); i >= 0 {
		after = slices.Delete(after, i, i+1)
	}
	if !slices.Equal(after, c.nars) {
		t.Errorf("status %d, and at the origin are further objects: %q", w.Code, after)
	}
	if t.Failed() {
		t.Fatalf("that is for a PUT to %s, %#x, of\n%s", path, how, text)
	}
}

func signedAgain(n nix.NARInfo) nixtest.Package {
	n.Signatures = []nix.Signature{fuzzKey2.Sign(&n)}
	return nixtest.Package{NARInfo: &n}
}

func (c *fuzzCache) snapshot() string {
	var b strings.Builder
	for _, path := range c.origin.Paths() {
		data, _ := c.origin.Get(path)
		fmt.Fprintf(&b, "%s %x\n", path, sha256.Sum256(data))
	}
	return b.String()
}

func (c *fuzzCache) put(path string, text []byte, how byte) *httptest.ResponseRecorder {
	body := text
	if how&bitEncoded != 0 {
		body = nixtest.Gzip(text)
	}
	r := httptest.NewRequest(http.MethodPut, "/"+path, bytes.NewReader(body))
	r.SetBasicAuth("", fuzzToken)
	if how&bitEncoded != 0 {
		r.Header.Set("Content-Encoding", "gzip")
	}
	if how&bitChunked != 0 {
		r.ContentLength = -1
	}
	return c.serve(r)
}

func (c *fuzzCache) serve(r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	if err := c.handler.ServeHTTP(w, r, nil); err != nil {
		panic(err)
	}
	return w
}

// narinfo makes the text of an attack.
func (c *fuzzCache) narinfo(p nixtest.Package, how byte, edits, raw []byte) []byte {
	if how == sendRaw {
		return raw
	}
	lines := strings.SplitAfter(strings.TrimSuffix(string(p.Text()), "\n"), "\n")
	lines[len(lines)-1] += "\n"
	for len(edits) > 1 {
		lines = c.edit(lines, int(edits[0])%len(fuzzFields), int(edits[1]), string(raw))
		edits = edits[2:]
	}
	text := strings.Join(lines, "")
	sign := func(key nix.PrivateKey, name string) string {
		return "Sig: " + name + ":" + base64.StdEncoding.EncodeToString(ed25519.Sign(secretOf(key), rawFingerprint(text))) + "\n"
	}
	switch how {
	case signTrusted:
		return []byte(withoutSignatures(text) + sign(fuzzKey, fuzzKey.Name()))
	case signForeign:
		return []byte(withoutSignatures(text) + sign(fuzzForeign, fuzzForeign.Name()))
	case signWrong:
		return []byte(withoutSignatures(text) + sign(fuzzForeign, fuzzKey.Name()))
	case signBoth:
		return []byte(withoutSignatures(text) + sign(fuzzKey, fuzzKey.Name()) + sign(fuzzForeign, fuzzKey2.Name()))
	default:
		return []byte(text)
	}
}

// edit gives a field a value, a second line for each third one; raw is the value
// of the highest numbers, and a line of its own where the field has no name.
func (c *fuzzCache) edit(lines []string, field, value int, raw string) []string {
	name := fuzzFields[field]
	if name == "" {
		return slices.Insert(slices.Clone(lines), value%(len(lines)+1), raw)
	}
	line := name + ": " + raw + "\n"
	if values := c.values[field]; len(values) > 0 && value < 250 {
		line = name + ": " + values[value%len(values)] + "\n"
	}
	i := slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(l, name+": ") })
	if i < 0 || value == 255 {
		return append(slices.Clone(lines), line)
	}
	lines = slices.Clone(lines)
	lines[i] = line
	return lines
}

// withoutSignatures keeps those that an edit has made.
func withoutSignatures(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "Sig: "+fuzzKey.Name()+":") {
			b.WriteString(line)
		}
	}
	return b.String()
}

// rawFingerprint is what a signer signs who takes the last value of each field
// for what it is.
func rawFingerprint(text string) []byte {
	values := map[string]string{}
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), ": "); ok {
			values[name] = value
		}
	}
	references := strings.Fields(values["References"])
	for i := range references {
		references[i] = nix.StoreDir + "/" + references[i]
	}
	return []byte("1;" + values["StorePath"] + ";" + values["NarHash"] + ";" + values["NarSize"] + ";" + strings.Join(references, ","))
}

func secretOf(key nix.PrivateKey) ed25519.PrivateKey {
	_, text, _ := strings.Cut(key.SecretText(), ":")
	secret, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		panic(err)
	}
	return secret
}

// wantServed fails unless what is stored at path is fit for every client.
func (c *fuzzCache) wantServed(t *testing.T, path string) {
	t.Helper()
	text, _ := c.origin.Get(path)
	if w := c.serve(httptest.NewRequest(http.MethodGet, "/"+path, nil)); w.Code != http.StatusOK || !bytes.Equal(w.Body.Bytes(), text) {
		t.Errorf("it is stored, and GET answers %d\n%s", w.Code, w.Body)
	}
	n, err := nix.ParseNARInfo(text)
	if err != nil {
		t.Fatalf("stored is what our own parser refuses: %v\n%s", err, text)
	}
	if again, err := n.MarshalText(); err != nil || !bytes.Equal(again, text) {
		t.Errorf("stored is\n%s\nand canonical, %v,\n%s", text, err, again)
	}
	var other zombie.NARInfo
	if err := other.UnmarshalText(text); err != nil {
		t.Fatalf("zombiezen refuses what is stored: %v\n%s", err, text)
	}
	c.wantSigned(t, &other)
	c.wantConsistent(t, &other, path)
}

// wantSigned: a trusted key signed it, and nobody else in its name.
func (c *fuzzCache) wantSigned(t *testing.T, n *zombie.NARInfo) {
	t.Helper()
	signed := false
	for _, sig := range n.Sig {
		trusted := slices.ContainsFunc(c.trusted, func(k *zombie.PublicKey) bool { return k.Name() == sig.Name() })
		err := zombie.VerifyNARInfo(c.trusted, n, sig)
		if trusted && err != nil {
			t.Errorf("stored with a wrong signature by %s: %v", sig.Name(), err)
		}
		signed = signed || trusted
	}
	if !signed {
		t.Error("stored without a signature by a trusted key")
	}
}

// wantConsistent: it is of its path, and its NAR is there and is what was signed.
func (c *fuzzCache) wantConsistent(t *testing.T, n *zombie.NARInfo, path string) {
	t.Helper()
	if n.StorePath.Digest()+".narinfo" != path || string(n.StorePath.Dir()) != "/nix/store" {
		t.Errorf("at %s is stored that of %s", path, n.StorePath)
	}
	suffix := map[zombie.CompressionType]string{"none": "", "gzip": "", "xz": ".xz", "zstd": ".zst"}
	want, known := suffix[n.Compression]
	if !known || n.URL != "nar/"+n.FileHash.RawBase32()+".nar"+want {
		t.Errorf("URL %s with FileHash %s and Compression %s", n.URL, n.FileHash, n.Compression)
	}
	file, _ := c.origin.Get(n.URL)
	if sum := sha256.Sum256(file); int64(len(file)) != n.FileSize || !bytes.Equal(sum[:], n.FileHash.Bytes(nil)) {
		t.Errorf("at %s are %d bytes of SHA-256 %x; FileSize %d, FileHash %s", n.URL, len(file), sum, n.FileSize, n.FileHash)
	}
	nar, known := c.content[n.URL]
	if sum := sha256.Sum256(nar); !known || int64(len(nar)) != n.NARSize || !bytes.Equal(sum[:], n.NARHash.Bytes(nil)) {
		t.Errorf("NarSize %d, NarHash %s; but the NAR at %s has %d bytes, SHA-256 %x", n.NARSize, n.NARHash, n.URL, len(nar), sum)
	}
}
