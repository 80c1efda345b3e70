package maintain

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stevedores-org/nix-cache/caddymodule/nix"
	"github.com/stevedores-org/nix-cache/caddymodule/nix/nixtest"
	"github.com/stevedores-org/nix-cache/caddymodule/origin"
	"github.com/stevedores-org/nix-cache/caddymodule/origin/origintest"
)

func newChecker(m *origintest.Memory) *Checker {
	return &Checker{Origin: m, Trusted: nixtest.Trust(builder), Parallel: 8}
}

// found returns what a check says, a line each, without the path.
func found(t *testing.T, reports iter.Seq2[Report, error]) (problems, notes []string) {
	t.Helper()
	for r, err := range reports {
		if err != nil {
			t.Fatal(err)
		}
		problems = append(problems, r.Problems...)
		notes = append(notes, r.Notes...)
	}
	return problems, notes
}

// wantFound fails unless each list has one line that contains the text, or
// none where that is "".
func wantFound(t *testing.T, reports iter.Seq2[Report, error], problem, note string) {
	t.Helper()
	problems, notes := found(t, reports)
	for _, c := range []struct {
		kind  string
		lines []string
		want  string
	}{{"problems", problems, problem}, {"notes", notes, note}} {
		if c.want == "" && len(c.lines) > 0 || c.want != "" && (len(c.lines) != 1 || !strings.Contains(c.lines[0], c.want)) {
			t.Errorf("%s: %q, want %q", c.kind, c.lines, c.want)
		}
		for _, line := range c.lines {
			if strings.ContainsAny(line, "\r\n") {
				t.Errorf("not one line: %q", line)
			}
		}
	}
}

var (
	lib   = nixtest.NewPackage("lib", 1000, nixtest.SignedBy(builder))
	hello = nixtest.NewPackage("hello", 100_000, nixtest.Compressed(nix.CompressionZstd, nixtest.Zstd),
		nixtest.References(lib.NARInfo.StorePath, nixtest.StorePath("hello")), nixtest.SignedBy(builder))
)

func path(p nixtest.Package) nix.CachePath { return nix.NARInfoPath(p.NARInfo.StorePath) }

// resigned is a package after a change to its narinfo.
func resigned(p nixtest.Package, change func(*nix.NARInfo)) nixtest.Package {
	n := *p.NARInfo
	change(&n)
	n.Signatures = []nix.Signature{builder.Sign(&n)}
	p.NARInfo = &n
	return p
}

func flipped(b []byte, at int) []byte {
	b = bytes.Clone(b)
	b[at] ^= 1
	return b
}

func TestVerify(t *testing.T) {
	nar := hello.NARInfo.URL()
	for _, test := range []struct {
		name    string
		damage  func(m *origintest.Memory)
		problem string
		note    string // found by All
		quick   bool   // found without reading NARs
	}{
		{"nothing", func(*origintest.Memory) {}, "", "", true},
		{"a narinfo that is none", func(m *origintest.Memory) { m.Put(narinfo(hello), []byte("x")) }, "newline", "no narinfo refers to it", true},
		{"a narinfo of another path", func(m *origintest.Memory) { m.Put(narinfo(hello), lib.Text()) }, "belongs at", "no narinfo refers to it", true},
		{"an unsigned one", func(m *origintest.Memory) {
			p := hello
			n := *p.NARInfo
			n.Signatures = nil
			p.NARInfo = &n
			m.Put(narinfo(hello), p.Text())
		}, "no signature by a trusted key", "", true},
		{"no NAR", func(m *origintest.Memory) { m.Remove(nar) }, nar + " is not there", "", true},
		{"a NAR cut off", func(m *origintest.Memory) { m.Put(nar, hello.File[1:]) }, "FileSize is", "", true},
		{"a NAR with a bit flipped at its beginning", func(m *origintest.Memory) { m.Put(nar, flipped(hello.File, 0)) }, "FileHash is", "", false},
		{"a NAR with a bit flipped in it", func(m *origintest.Memory) { m.Put(nar, flipped(hello.File, 50_000)) }, "FileHash is", "", false},
		{"a NAR with a bit flipped at its end", func(m *origintest.Memory) { m.Put(nar, flipped(hello.File, len(hello.File)-1)) }, "FileHash is", "", false},
		{"an uncompressed NAR with a bit flipped", func(m *origintest.Memory) { m.Put(lib.NARInfo.URL(), flipped(lib.File, 500)) }, "FileHash is", "", false},
		{"another NarHash", func(m *origintest.Memory) {
			m.Put(narinfo(hello), resigned(hello, func(n *nix.NARInfo) { n.NARHash[0] ^= 1 }).Text())
		}, "NarHash is", "", false},
		{"a larger NarSize", func(m *origintest.Memory) {
			m.Put(narinfo(hello), resigned(hello, func(n *nix.NARInfo) { n.NARSize++ }).Text())
		}, "NarSize is", "", false},
		{"a smaller NarSize", func(m *origintest.Memory) {
			m.Put(narinfo(hello), resigned(hello, func(n *nix.NARInfo) { n.NARSize = 5 }).Text())
		}, "decompresses to more", "", false},
		{"a NAR that is not compressed so", func(m *origintest.Memory) {
			p := nixtest.NewPackage("hello", 1000, nixtest.Compressed(nix.CompressionZstd, func(nar []byte) []byte { return nar }), nixtest.SignedBy(builder))
			m.Remove(nar)
			lay(m, p)
		}, "can't be decompressed as zstd", "", false},
		{"a reference that is not there", func(m *origintest.Memory) { m.Remove(narinfo(lib)); m.Remove(lib.NARInfo.URL()) }, "", lib.NARInfo.StorePath.String(), true},
		{"a NAR without a narinfo", func(m *origintest.Memory) { m.Remove(narinfo(hello)) }, "", "no narinfo refers to it: " + fmt.Sprint(len(hello.File)), true},
		{"other files", func(m *origintest.Memory) {
			m.Put("nix-cache-info", nil)
			m.Put("nar/x", nil)
			m.Put("zzz.narinfo", nil)
		}, "", "", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := origintest.NewMemory()
			lay(m, lib, hello)
			test.damage(m)
			c := newChecker(m)
			wantFound(t, c.All(t.Context()), test.problem, test.note)
			c.Quick = true
			m.ResetOps()
			if test.quick {
				wantFound(t, c.All(t.Context()), test.problem, test.note)
			} else {
				wantFound(t, c.All(t.Context()), "", test.note)
			}
			if n := m.Ops("open", lib.NARInfo.URL(), nar); n > 0 {
				t.Errorf("%d NARs were read in a quick check", n)
			}
			if m.Ops("create")+m.Ops("delete") > 0 {
				t.Error("something was written")
			}
		})
	}
}

// TestVerifyCosts: with all files listed, a quick check costs one operation for
// each narinfo, and one list.
func TestVerifyCosts(t *testing.T) {
	m := origintest.NewMemory()
	lay(m, many(50)...)
	c := newChecker(m)
	c.Quick = true
	wantFound(t, c.All(t.Context()), "", "")
	if m.Ops("list") != 1 || m.Ops("open") != 50 || m.Ops("stat") != 0 {
		t.Errorf("%d lists, %d opened, %d asked about", m.Ops("list"), m.Ops("open"), m.Ops("stat"))
	}
}

func TestVerifyGivenPaths(t *testing.T) {
	m := origintest.NewMemory()
	lay(m, lib, hello)
	c := newChecker(m)
	wantFound(t, c.Paths(t.Context(), path(hello), path(lib)), "", "")
	wantFound(t, c.Paths(t.Context(), nix.NARInfoPath(nixtest.StorePath("missing"))), "no such narinfo", "")
	m.Remove(hello.NARInfo.URL())
	wantFound(t, c.Paths(t.Context(), path(lib)), "", "")
	wantFound(t, c.Paths(t.Context(), path(hello)), "is not there", "")
	m.Remove(narinfo(lib))
	wantFound(t, c.Paths(t.Context(), path(hello)), "is not there", "refers to what is not in this cache")
}

// TestVerifyBesideUploads: what came or went after the list is no problem.
func TestVerifyBesideUploads(t *testing.T) {
	m := origintest.NewMemory()
	lay(m, hello)
	old := nixtest.NewPackage("old", 10, nixtest.SignedBy(builder))
	m.Put(narinfo(old), old.Text())
	m.OnOpen(func(string, origin.OpenOptions) error {
		m.OnOpen(nil)
		m.Remove(narinfo(old))
		lay(m, lib)
		return nil
	})
	c := newChecker(m)
	c.Parallel = 1
	wantFound(t, c.All(t.Context()), "", "")
}

func TestWithoutTrustedKeysSignaturesAreNotChecked(t *testing.T) {
	m := origintest.NewMemory()
	lay(m, nixtest.NewPackage("hello", 10))
	c := newChecker(m)
	c.Trusted = nix.PublicKeys{}
	wantFound(t, c.All(t.Context()), "", "")
}

// TestVerifyReadsOn: bodies that break off are read on, not taken for damaged.
func TestVerifyReadsOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := origintest.NewMemory()
		lay(m, lib, hello)
		m.CutBody(hello.NARInfo.URL(), 50_000, 1)
		opens := 0
		m.OnOpen(func(path string, opts origin.OpenOptions) error {
			if path != hello.NARInfo.URL() || opts.Offset == 0 {
				return nil
			}
			if opens++; opens == 1 {
				return origintest.Unavailable("open", path)
			}
			return nil
		})
		wantFound(t, newChecker(m).All(t.Context()), "", "")
		if opens < 2 {
			t.Errorf("read on %d times", opens)
		}
	})
}

// TestVerifyWithoutAnOrigin: not to be able to check is no finding.
func TestVerifyWithoutAnOrigin(t *testing.T) {
	for _, method := range []string{"list", ".narinfo", "nar/"} {
		t.Run(method, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := origintest.NewMemory()
				lay(m, hello)
				m.OnList(func(prefix string) error {
					if method == "list" {
						return origintest.Unavailable("list", prefix)
					}
					return nil
				})
				m.OnOpen(func(path string, _ origin.OpenOptions) error {
					if strings.Contains(path, method) {
						return origintest.Unavailable("open", path)
					}
					return nil
				})
				var last error
				for r, err := range newChecker(m).All(t.Context()) {
					if last = err; err == nil {
						t.Errorf("a report: %+v", r)
					}
				}
				if last == nil {
					t.Error("no error")
				}
			})
		})
	}
}

func TestVerifyInterrupted(t *testing.T) {
	m := origintest.NewMemory()
	lay(m, many(100)...)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var last error
	for _, err := range newChecker(m).All(ctx) {
		last = err
		cancel()
	}
	if last == nil {
		t.Error("it went on to its end")
	}
}
