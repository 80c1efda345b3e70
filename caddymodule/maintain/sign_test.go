package maintain

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/stevedores-org/nix-cache/caddymodule/nix"
	"github.com/stevedores-org/nix-cache/caddymodule/nix/nixtest"
	"github.com/stevedores-org/nix-cache/caddymodule/origin"
	"github.com/stevedores-org/nix-cache/caddymodule/origin/origintest"
)

func TestSign(t *testing.T) {
	m := origintest.NewMemory()
	packages := many(100)
	lay(m, packages...)
	s := newSigner(m, ours, next)
	done, err := signAll(t.Context(), s, "")
	if err != nil || !maps.Equal(count(done), map[Outcome]int{Signed: 100}) {
		t.Fatalf("%v, %v", count(done), err)
	}
	if !slices.IsSortedFunc(done, func(a, b Signing) int { return strings.Compare(a.Path.String(), b.Path.String()) }) {
		t.Error("not in the order of their paths")
	}
	for _, p := range packages {
		wantSigned(t, m, narinfo(p), builder, ours, next)
		if got := m.ContentType(narinfo(p)); got != "text/x-nix-narinfo" {
			t.Errorf("content type %q", got)
		}
	}

	m.ResetOps()
	done, err = signAll(t.Context(), s, "")
	if err != nil || !maps.Equal(count(done), map[Outcome]int{Present: 100}) {
		t.Fatalf("again: %v, %v", count(done), err)
	}
	if m.Ops("open") != 100 || m.Ops("create") != 0 || m.Ops("list") != 1 {
		t.Errorf("again: %d opened, %d written, %d lists", m.Ops("open"), m.Ops("create"), m.Ops("list"))
	}
}

func TestWhatIsNotSigned(t *testing.T) {
	for _, test := range []struct {
		name   string
		text   []byte
		reason string
	}{
		{"malformed", []byte("<html>\n"), "parse narinfo"},
		{"of another path", nixtest.NewPackage("other", 10, nixtest.SignedBy(builder)).Text(), "belongs at"},
		{"unsigned", nixtest.NewPackage("hello", 10).Text(), "no signature by a trusted key"},
		{"signed by a stranger", nixtest.NewPackage("hello", 10, nixtest.SignedBy(foreign)).Text(), "no signature by a trusted key"},
		{"with our signature alone", nixtest.NewPackage("hello", 10, nixtest.SignedBy(ours)).Text(), "no signature by a trusted key"},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := origintest.NewMemory()
			path := narinfo(nixtest.NewPackage("hello", 10))
			m.Put(path, test.text)
			done, err := signAll(t.Context(), newSigner(m, ours), "")
			if err != nil || len(done) != 1 || done[0].Outcome != Refused || !strings.Contains(done[0].Reason, test.reason) {
				t.Errorf("%+v, %v; want it refused: %s", done, err, test.reason)
			}
			if m.Ops("create") > 0 {
				t.Error("it was written")
			}
		})
	}
}

// TestSignAFullNARInfo: strangers make room, by their number or by their bytes.
func TestSignAFullNARInfo(t *testing.T) {
	full := []nixtest.Option{nixtest.SignedBy(builder)}
	for i := range nix.MaxSignatures - 1 {
		full = append(full, nixtest.SignedBy(nixtest.NewKey(fmt.Sprint("a-stranger-", i))))
	}
	long := []nixtest.Option{nixtest.Filled(500), nixtest.SignedBy(builder), nixtest.SignedBy(nixtest.NewKey(strings.Repeat("a", 255)))}
	for name, options := range map[string][]nixtest.Option{"number": full, "bytes": long} {
		m := origintest.NewMemory()
		p := nixtest.NewPackage("hello", 10, options...)
		lay(m, p)
		for _, want := range []Outcome{Signed, Present} {
			if done, err := signAll(t.Context(), newSigner(m, ours, next), ""); err != nil || count(done)[want] != 1 {
				t.Errorf("%s: %+v, %v; want it %s", name, done, err, want)
			}
			wantSigned(t, m, narinfo(p), builder, ours, next)
		}
	}
}

func TestWithoutTrustedKeysAllIsSigned(t *testing.T) {
	m := origintest.NewMemory()
	p := nixtest.NewPackage("hello", 10)
	lay(m, p)
	s := newSigner(m, ours)
	s.Trusted = nix.PublicKeys{}
	if done, err := signAll(t.Context(), s, ""); err != nil || count(done)[Signed] != 1 {
		t.Errorf("%v, %v", done, err)
	}
	wantSigned(t, m, narinfo(p), ours)
}

// TestAWriterComesBetween: neither signature is lost.
func TestAWriterComesBetween(t *testing.T) {
	m := origintest.NewMemory()
	p := nixtest.NewPackage("hello", 10, nixtest.SignedBy(builder))
	other := nixtest.NewPackage("hello", 10, nixtest.SignedBy(builder), nixtest.SignedBy(next))
	lay(m, p)
	var commits atomic.Int32
	m.OnCommit(func(path string) error {
		if commits.Add(1) == 1 {
			m.Put(path, other.Text())
		}
		return nil
	})
	if done, err := signAll(t.Context(), newSigner(m, ours), ""); err != nil || count(done)[Signed] != 1 {
		t.Fatalf("%v, %v", done, err)
	}
	wantSigned(t, m, narinfo(p), builder, next, ours)
}

func TestWritersKeepComing(t *testing.T) {
	m := origintest.NewMemory()
	p := nixtest.NewPackage("hello", 10, nixtest.SignedBy(builder))
	lay(m, p)
	m.OnCommit(func(path string) error { m.Put(path, p.Text()); return nil })
	done, err := signAll(t.Context(), newSigner(m, ours), "")
	if err != nil || count(done)[Refused] != 1 || m.Ops("commit") != maxRaces {
		t.Errorf("%v, %v after %d commits", done, err, m.Ops("commit"))
	}
}

// TestDeletedBetween: what goes while it is signed does not come back.
func TestDeletedBetween(t *testing.T) {
	for name, hook := range map[string]func(m *origintest.Memory, path string){
		"before it is read": func(m *origintest.Memory, path string) {
			m.OnOpen(func(string, origin.OpenOptions) error { m.Remove(path); return nil })
		},
		"before it is written": func(m *origintest.Memory, path string) {
			m.OnCommit(func(string) error { m.Remove(path); return nil })
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := origintest.NewMemory()
			p := nixtest.NewPackage("hello", 10, nixtest.SignedBy(builder))
			lay(m, p)
			hook(m, narinfo(p))
			if done, err := signAll(t.Context(), newSigner(m, ours), ""); err != nil || count(done)[Gone] != 1 {
				t.Errorf("%v, %v", done, err)
			}
			if _, there := m.Get(narinfo(p)); there {
				t.Error("it is there again")
			}
		})
	}
}

// TestAMomentsTrouble: a run outlives an origin that does not answer for some
// seconds, and an answer that is lost.
func TestAMomentsTrouble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := origintest.NewMemory()
		packages := many(20)
		lay(m, packages...)
		var opens, commits atomic.Int32
		m.OnOpen(func(path string, _ origin.OpenOptions) error {
			if n := opens.Add(1); n > 5 && n < 12 {
				return origintest.Unavailable("open", path)
			}
			return nil
		})
		m.OnCommitted(func(path string) error {
			if commits.Add(1) == 3 {
				return origintest.Unavailable("commit", path)
			}
			return nil
		})
		done, err := signAll(t.Context(), newSigner(m, ours), "")
		if err != nil || !maps.Equal(count(done), map[Outcome]int{Signed: 19, Present: 1}) {
			t.Fatalf("%v, %v", count(done), err)
		}
		for _, p := range packages {
			wantSigned(t, m, narinfo(p), builder, ours)
		}
	})
}

// TestResume: the origin fails for good in the middle of 10,000 narinfos. The
// next run reads none of those that the first one had reported.
func TestResume(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := origintest.NewMemory()
		packages := many(10_000)
		lay(m, packages...)
		s := newSigner(m, ours)
		middle := packages[0]
		for _, p := range packages {
			if p := nix.NARInfoPath(p.NARInfo.StorePath); Position(p) > 0.5 && Position(p) < 0.501 {
				middle = packages[slices.IndexFunc(packages, func(q nixtest.Package) bool { return narinfo(q) == p.String() })]
			}
		}
		m.OnOpen(func(path string, _ origin.OpenOptions) error {
			if path >= narinfo(middle) {
				return origintest.Unavailable("open", path)
			}
			return nil
		})
		file := filepath.Join(t.TempDir(), "state")
		state := s.NewState()
		for signing, err := range s.All(t.Context(), state.After) {
			if err != nil {
				if _, unavailable := errors.AsType[*origin.UnavailableError](err); !unavailable {
					t.Error(err)
				}
				break
			}
			state.Add(signing)
		}
		if err := state.Write(file); err != nil {
			t.Fatal(err)
		}
		if n := state.Counts[Signed]; n < 4000 || n > 6000 || state.After >= narinfo(middle) {
			t.Fatalf("%d signed, up to %s", n, state.After)
		}

		m.OnOpen(func(path string, _ origin.OpenOptions) error {
			if path <= state.After {
				t.Errorf("%s is read again", path)
			}
			return nil
		})
		resumed, err := s.ReadState(file)
		if err != nil || resumed.After != state.After {
			t.Fatalf("state %+v, %v", resumed, err)
		}
		for signing, err := range s.All(t.Context(), resumed.After) {
			if err != nil {
				t.Fatal(err)
			}
			resumed.Add(signing)
		}
		if !maps.Equal(resumed.Counts, map[Outcome]int{Signed: 10_000}) {
			t.Errorf("in both runs: %v", resumed.Counts)
		}
		for _, p := range packages {
			wantSigned(t, m, narinfo(p), ours)
		}
	})
}

// TestSlowOne: a worker that is held up lets no other's path be taken for the
// point up to which all is done.
func TestSlowOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := origintest.NewMemory()
		lay(m, many(200)...)
		slow := m.Paths()[0]
		gate := m.Hold("open", slow)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go func() {
			synctest.Wait() // the others have gone as far as they go
			cancel()
		}()
		done, err := signAll(ctx, newSigner(m, ours), "")
		gate.Release()
		if !errors.Is(err, context.Canceled) || len(done) != 0 {
			t.Errorf("%d done, %v; want none before the first", len(done), err)
		}
		if n := m.Ops("commit"); n == 0 || n > 100 {
			t.Errorf("%d written past the slow one, want some dozens", n)
		}
	})
}

func TestInterrupted(t *testing.T) {
	m := origintest.NewMemory()
	lay(m, many(500)...)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	s := newSigner(m, ours)
	state := s.NewState()
	var last error
	for signing, err := range s.All(ctx, "") {
		if last = err; err != nil {
			break
		}
		if state.Add(signing); state.Counts[Signed] == 100 {
			cancel()
		}
	}
	if !errors.Is(last, context.Canceled) {
		t.Fatalf("ended with %v", last)
	}
	for _, path := range m.Paths() {
		if strings.HasSuffix(path, ".narinfo") && path <= state.After {
			wantSigned(t, m, path, ours)
		}
	}
}

func TestStateOfSomethingElse(t *testing.T) {
	m := origintest.NewMemory()
	lay(m, many(3)...)
	file := filepath.Join(t.TempDir(), "state")
	s := newSigner(m, ours)
	if state, err := s.ReadState(file); err != nil || state.After != "" {
		t.Errorf("without a file: %+v, %v", state, err)
	}
	state := s.NewState()
	for signing := range s.All(t.Context(), "") {
		state.Add(signing)
	}
	if err := state.Write(file); err != nil {
		t.Fatal(err)
	}
	if _, err := newSigner(m, next).ReadState(file); err == nil || !strings.Contains(err.Error(), "other keys") {
		t.Errorf("with other keys: %v", err)
	}
	for _, text := range []string{"", "{}", "[]", "x", `{"after": "nonsense", "counts": {}}`} {
		writeFile(t, file, text)
		if _, err := s.ReadState(file); err == nil || !strings.Contains(err.Error(), file) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestPosition(t *testing.T) {
	for path, want := range map[string]float64{
		strings.Repeat("0", 32):       0,
		"h" + strings.Repeat("0", 31): 0.5,
		"n" + strings.Repeat("0", 31): 0.6875,
	} {
		p, err := nix.ParseCachePath(path + ".narinfo")
		if err != nil {
			t.Fatal(err)
		}
		if got := Position(p); got < want-1e-6 || got > want+1e-6 {
			t.Errorf("Position(%s) = %v, want %v", p, got, want)
		}
	}
}
