package integration

import (
	"fmt"
	"net/http"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/stevedores-org/nix-cache/caddymodule/nix"
	"github.com/stevedores-org/nix-cache/caddymodule/nix/nixtest"
)

// The tests here are named after a list of attacks with uploads. What each does
// to real clients, if it gets through, is from runs of Nix 2.8 and 2.34.

// victims are packages to attack, each with its NAR in place.
type victims struct {
	*cache
	nixtest.Victims
}

func newVictims(t *testing.T, c *cache) victims {
	t.Helper()
	v := victims{c, nixtest.NewVictims(testKey)}
	for _, p := range v.All() {
		c.put(t, narPath(p), p.File).wantStatus(t, http.StatusCreated)
	}
	return v
}

// of returns the victim that an attack's text is of.
func (v victims) of(a nixtest.Attack) nixtest.Package {
	for _, p := range v.All() {
		if strings.Contains(a.Text, p.NARInfo.StorePath.Hash()) {
			return p
		}
	}
	return v.Plain
}

// refuse uploads an attack's narinfo and fails unless it is refused and leaves
// nothing.
func (v victims) refuse(t *testing.T, a nixtest.Attack, options ...requestOption) {
	t.Helper()
	status := http.StatusBadRequest
	if len(a.Text) > nix.MaxNARInfoSize {
		status, a.Want = http.StatusRequestEntityTooLarge, ""
	}
	v.refuses(t, a.Name, narinfoPath(v.of(a)), []byte(a.Text), status, a.Want, options...)
}

// refuses fails unless an upload is refused, and the origin is afterwards as it
// was before.
func (c *cache) refuses(t *testing.T, name, path string, body []byte, status int, text string, options ...requestOption) {
	t.Helper()
	before := c.origin.paths(t)
	there := slices.Contains(before, strings.TrimPrefix(path, "/"))
	answer := c.put(t, path, body, options...)
	answer.Request += " " + name
	answer.wantRefusal(t, status, text)
	if after := c.origin.paths(t); !slices.Equal(after, before) {
		t.Errorf("%s: the origin has %q, and had %q", answer.Request, after, before)
	}
	if got := c.get(t, path); !there && got.Status != http.StatusNotFound {
		t.Errorf("%s: afterwards GET answers %d", answer.Request, got.Status)
	}
}

// honest uploads what was attacked, and gets it back.
func (c *cache) honest(t *testing.T, p nixtest.Package) {
	t.Helper()
	if a := c.put(t, narPath(p), p.File); a.Status != http.StatusOK { // there already
		a.wantStatus(t, http.StatusCreated)
	}
	c.get(t, narPath(p)).wantBody(t, p.File)
	c.put(t, narinfoPath(p), p.Text()).wantStatus(t, http.StatusCreated)
	c.get(t, narinfoPath(p)).wantBody(t, p.Text())
}

// testAttacks sends the attacks of a point, and what they attacked after them.
func testAttacks(t *testing.T, point int) {
	c := startCache(t, dirOrigin(t))
	v := newVictims(t, c)
	some := false
	for _, a := range v.Base().Attacks() {
		if a.Point == point {
			some = true
			v.refuse(t, a)
		}
	}
	if !some {
		t.Fatal("there are no attacks")
	}
	for _, p := range v.All() {
		c.honest(t, p)
	}
}

// A content address is not signed, and a wrong one aborts clients.
func TestAttack01ContentAddressAppended(t *testing.T) { testAttacks(t, 1) }

// An unknown compression aborts clients, and with a wrong one some fail.
func TestAttack02Compression(t *testing.T) {
	testAttacks(t, 2)
	forEachOrigin(t, func(t *testing.T, o *testOrigin) {
		c := startCache(t, o, everyCompression)
		for _, from := range []nix.Compression{nix.CompressionZstd, nix.CompressionXZ, nix.CompressionGzip} {
			p := signedPackage("right-"+from.String(), 1000, nixtest.Compressed(from, nixtest.Compressors[from]))
			c.put(t, narPath(p), p.File).wantStatus(t, http.StatusCreated)
			for to := nix.CompressionNone + 1; to <= nix.CompressionLZ4; to++ {
				if to == from {
					continue
				}
				lie := *p.NARInfo
				lie.Compression = to
				lied := nixtest.Package{NARInfo: &lie, File: p.File}
				if a := c.put(t, narPath(lied), p.File); a.Status != http.StatusOK {
					a.wantStatus(t, http.StatusCreated)
				}
				c.refuses(t, to.String(), narinfoPath(p), lied.Text(), http.StatusUnprocessableEntity, "decompress")
			}
			c.honest(t, p)
		}
	})
}

// One malformed signature makes a narinfo an error for clients.
func TestAttack03MalformedSignature(t *testing.T) { testAttacks(t, 3) }

// Clients don't read lines: they read a name up to the next colon.
func TestAttack04LineStructure(t *testing.T) { testAttacks(t, 4) }

// Of two equal fields clients take the last, or give up.
func TestAttack05DuplicateField(t *testing.T) { testAttacks(t, 5) }

// A URL may lead clients elsewhere, even to a file of their own.
func TestAttack06URL(t *testing.T) { testAttacks(t, 6) }

// A valid narinfo of one path can be put under another's name: clients refuse it,
// and remember it for a month.
func TestAttack07OtherName(t *testing.T) {
	forEachOrigin(t, func(t *testing.T, o *testOrigin) {
		c := startCache(t, o)
		a, b := signedPackage("one", 1000), signedPackage("two", 1000)
		c.put(t, narPath(a), a.File).wantStatus(t, http.StatusCreated)
		c.put(t, narPath(b), b.File).wantStatus(t, http.StatusCreated)
		c.refuses(t, "before", narinfoPath(a), b.Text(), http.StatusBadRequest, b.NARInfo.StorePath.String())
		c.honest(t, a)
		c.refuses(t, "after", narinfoPath(a), b.Text(), http.StatusBadRequest, b.NARInfo.StorePath.String())
		c.get(t, narinfoPath(a)).wantBody(t, a.Text())
		c.honest(t, b)
	})
}

// Of every value there is one spelling.
func TestAttack08Spelling(t *testing.T) { testAttacks(t, 8) }

// What is not signed may be a lie. Of the deriver nobody knows better.
func TestAttack09UnsignedLies(t *testing.T) {
	testAttacks(t, 9)
	forEachOrigin(t, func(t *testing.T, o *testOrigin) {
		c := startCache(t, o)
		p := signedPackage("lies", 1000, nixtest.Compressed(nix.CompressionZstd, nixtest.Zstd))
		c.put(t, narPath(p), p.File).wantStatus(t, http.StatusCreated)
		for _, size := range []int64{1, p.NARInfo.FileSize - 1, p.NARInfo.FileSize + 1, 1<<63 - 1} {
			lie := *p.NARInfo
			lie.FileSize = size
			c.refuses(t, fmt.Sprint("FileSize ", size), narinfoPath(p), nixtest.Package{NARInfo: &lie}.Text(), http.StatusUnprocessableEntity, "FileSize")
		}
		c.honest(t, p)
		p = signedPackage("another-deriver", 1000)
		p.NARInfo.Deriver = nixtest.StorePath("evil.drv")
		c.honest(t, p)
	})
}

// Paths of files that are not taken, or that are no path of a binary cache.
func TestAttack11OtherPaths(t *testing.T) {
	forEachOrigin(t, func(t *testing.T, o *testOrigin) {
		c := startCache(t, o)
		poison := []byte("StoreDir: /evil\nPriority: abc\n")
		info := c.get(t, "/nix-cache-info").Body
		for _, path := range []string{"/nix-cache-info", "/", "/health", "/%6eix-cache-info"} {
			c.put(t, path, poison).wantRefusal(t, http.StatusMethodNotAllowed, "")
		}
		p := signedPackage("other-paths", 1000)
		nar, hash := strings.TrimPrefix(narPath(p), "/nar/"), p.NARInfo.StorePath.Hash()
		for _, path := range []string{
			"/nar/../nix-cache-info", "/nar/..%2fnix-cache-info", "/..%2f..%2fetc%2fpasswd", "/%2e%2e/x.narinfo", "/nar/%2e%2e/" + hash + ".narinfo",
			"/nar/%252e%252e%252f" + nar, "/nar%252F" + nar, "/nar/.%2f" + nar, "/nar/" + nar + "%00", "/nar/" + nar + "%0a", "/nar/" + nar + "%2f", "/nar/" + nar + "%3fx",
			"/nar/" + nar + ".exe", "/nar/" + nar + ".xz.zst", "/nar/" + strings.ToUpper(nar), "/nar/" + nar[1:], "/nar/e" + nar[1:], "/NAR/" + nar, `/nar%5c` + nar,
			"/" + hash + "-other-paths.narinfo", "/" + hash[1:] + ".narinfo", "/" + hash + "0.narinfo", "/e" + hash[1:] + ".narinfo", "/" + strings.ToUpper(hash) + ".narinfo",
			"/" + hash + ".NARINFO", "/" + hash + ".narinfo%20", "/" + hash + ".narinfo%2f", "/" + hash + ".narinfo%00", "/.narinfo", "/" + strings.Repeat("0", 5000) + ".narinfo", "/index.html", "/robots.txt",
		} {
			c.refuses(t, "", path, p.Text(), http.StatusBadRequest, "")
		}
		if paths := o.paths(t); len(paths) > 0 {
			t.Errorf("the origin has %q", paths)
		}
		c.get(t, "/nix-cache-info").wantBody(t, info)
		// Decoded once, this one is the NAR's path.
		c.put(t, "/nar%2F"+nar, p.File).wantStatus(t, http.StatusCreated)
		if paths := o.paths(t); !slices.Equal(paths, []string{"nar/" + nar}) {
			t.Errorf("the origin has %q", paths)
		}
		c.honest(t, p)
	})
}

// floodGrowth is how much of memory floods of uploads may take, under the race
// detector.
const floodGrowth = 256 << 20

// Much is refused soon, and takes little memory.
func TestAttack12Size(t *testing.T) {
	c := startCache(t, dirOrigin(t))
	v := newVictims(t, c)
	floods := v.Base().Floods()
	for _, a := range floods {
		v.refuse(t, a)
	}
	c.resetResidentPeak(t)
	before := c.residentNow(t)
	for _, a := range floods {
		for range 5 {
			v.refuse(t, a)
		}
		for _, coding := range []string{"gzip", "zstd", "br", "xz"} {
			path := narinfoPath(v.of(a))
			status := map[bool]int{true: http.StatusRequestEntityTooLarge, false: http.StatusBadRequest}[len(a.Text) > nix.MaxNARInfoSize]
			c.refuses(t, a.Name, path, nixtest.ContentEncoders[coding]([]byte(a.Text)), status, "", header("Content-Encoding", coding))
		}
	}
	if peak := c.residentPeak(t); peak-before > floodGrowth {
		t.Errorf("memory went from %d to %d MiB", before>>20, peak>>20)
	}
	for _, p := range v.All() {
		c.honest(t, p)
	}
}

// Of two trusted keys of one name clients know the first only, so that what the
// second signed is of no use to some.
func TestAttack13TwoKeysOfOneName(t *testing.T) {
	second, err := nix.GeneratePrivateKey(testKey.Name())
	if err != nil {
		t.Fatal(err)
	}
	dir := tempDir(t)
	validate := func(keys ...string) (string, error) {
		lines := "http://localhost:0 {\n\tnix_cache {\n\t\torigin dir " + dir + "/objects\n"
		for _, key := range keys {
			lines += "\t\ttrusted_public_key " + key + "\n"
		}
		writeFile(t, dir+"/Caddyfile", lines+"\t}\n}\n")
		cmd := exec.CommandContext(t.Context(), requireEnv(t, "CADDY_RACE"), "validate", "--config", dir+"/Caddyfile")
		cmd.Env = []string{"HOME=" + dir, quickEnd}
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	first, other := testPublicKey, otherKey.PublicKey().String()
	for name, keys := range map[string][]string{
		"on two lines":  {first, second.PublicKey().String()},
		"on one line":   {first + " " + second.PublicKey().String()},
		"and a third":   {first, other, second.PublicKey().String()},
		"the other way": {second.PublicKey().String(), first},
	} {
		out, err := validate(keys...)
		lines := strings.Split(strings.TrimSpace(out), "\n")
		last := lines[len(lines)-1]
		if err == nil || !strings.Contains(last, "trusted_public_key") || !strings.Contains(last, testKey.Name()) || !strings.Contains(last, "rename one") {
			t.Errorf("%s: %v, and the last line is %q", name, err, last)
		}
	}
	if out, err := validate(first, first, other); err != nil {
		t.Errorf("the same key twice: %v\n%s", err, out)
	}
	// A signature in a trusted key's name is refused, whoever made it.
	c := startCache(t, dirOrigin(t))
	p := nixtest.NewPackage("namesake", 1000, nixtest.SignedBy(second))
	c.put(t, narPath(p), p.File).wantStatus(t, http.StatusCreated)
	c.refuses(t, "", narinfoPath(p), p.Text(), http.StatusBadRequest, testKey.Name())
	c.honest(t, signedPackage("namesake", 1000))
}
