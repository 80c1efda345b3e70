package upload

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"

	"github.com/stevedores-org/nix-cache/caddymodule/nix"
	"github.com/stevedores-org/nix-cache/caddymodule/nix/nixtest"
	"github.com/stevedores-org/nix-cache/caddymodule/origin"
	"github.com/stevedores-org/nix-cache/caddymodule/origin/origintest"
)

// layPackages puts n packages at the origin.
func layPackages(m *origintest.Memory, n int) []nixtest.Package {
	packages := make([]nixtest.Package, n)
	for i := range packages {
		p := signed(fmt.Sprint("package-", i), 100)
		m.Put(p.NARInfo.URL(), p.File)
		m.Put(infoPath(p).String(), p.Text())
		packages[i] = p
	}
	return packages
}

func wantDeleted(t *testing.T, r *Receiver, path nix.CachePath, when Deletion) {
	t.Helper()
	if err := r.Delete(t.Context(), path, when); err != nil {
		t.Errorf("Delete(%s) = %v", path, err)
	}
	if _, there := r.Origin.(*origintest.Memory).Get(path.String()); there {
		t.Errorf("%s is still there", path)
	}
}

// wantReferenced fails unless the NAR is kept for the sake of a narinfo.
func wantReferenced(t *testing.T, r *Receiver, p nixtest.Package) {
	t.Helper()
	err := r.Delete(t.Context(), p.NARInfo.NARPath(), IfUnreferenced)
	var rejected *RejectedError
	if !errors.As(err, &rejected) || rejected.Reason != Referenced || !strings.Contains(err.Error(), p.NARInfo.StorePath.String()) {
		t.Errorf("Delete = %v; want a refusal that names %s", err, p.NARInfo.StorePath)
	}
	if _, there := r.Origin.(*origintest.Memory).Get(p.NARInfo.URL()); !there {
		t.Error("the NAR is gone")
	}
}

func TestDeleteNARInfoFirst(t *testing.T) {
	r, m := newReceiver()
	packages := layPackages(m, 3)
	p := packages[1]
	wantReferenced(t, r, p)
	wantDeleted(t, r, infoPath(p), IfUnreferenced)
	wantDeleted(t, r, p.NARInfo.NARPath(), IfUnreferenced)
	wantDeleted(t, r, packages[2].NARInfo.NARPath(), Regardless)
	if got := m.Paths(); len(got) != 3 {
		t.Errorf("at the origin are %q", got)
	}
}

func TestDeleteOfWhatIsAbsent(t *testing.T) {
	r, m := newReceiver()
	p := signed("hello", 100)
	for _, path := range []nix.CachePath{infoPath(p), p.NARInfo.NARPath()} {
		for _, when := range []Deletion{IfUnreferenced, Regardless} {
			if err := r.Delete(t.Context(), path, when); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("Delete(%s) = %v, want fs.ErrNotExist", path, err)
			}
		}
	}
	wantOps(t, m, "stat 4")
}

// TestReferrersOfAllShapes: whatever clients may follow counts.
func TestReferrersOfAllShapes(t *testing.T) {
	p := signed("hello", 100)
	text := string(p.Text())
	url := "URL: " + p.NARInfo.URL()
	for name, test := range map[string]struct {
		text    string
		refuses bool
	}{
		"canonical":             {text, true},
		"malformed":             {"Evil: 1\n" + text, true},
		"CRLF":                  {strings.ReplaceAll(text, "\n", "\r\n"), true},
		"without its end":       {strings.TrimSuffix(text, "\n"), true},
		"with a query":          {strings.Replace(text, url, url+"?x=y", 1), true},
		"the last URL counts":   {"URL: nar/other.nar\n" + text, true},
		"the last is another's": {text + "URL: nar/other.nar\n", false},
		"in another line":       {"Deriver: " + url + "\n", false},
		"empty":                 {"", false},
	} {
		t.Run(name, func(t *testing.T) {
			r, m := newReceiver()
			m.Put(p.NARInfo.URL(), p.File)
			m.Put(infoPath(p).String(), []byte(test.text))
			for range 2 { // the second time from memory
				err := r.Delete(t.Context(), p.NARInfo.NARPath(), IfUnreferenced)
				if refused := err != nil; refused != test.refuses {
					t.Errorf("Delete = %v", err)
				}
				m.Put(p.NARInfo.URL(), p.File)
			}
		})
	}
}

// TestDeletingManyNARs: narinfos are read once.
func TestDeletingManyNARs(t *testing.T) {
	r, m := newReceiver()
	const all, deleted = 100, 10
	packages := layPackages(m, all)
	m.ResetOps()
	for _, p := range packages[:deleted] {
		wantDeleted(t, r, infoPath(p), IfUnreferenced)
		wantDeleted(t, r, p.NARInfo.NARPath(), IfUnreferenced)
	}
	wantOps(t, m, fmt.Sprintf("stat %d open %d delete %d list %d", 2*deleted, all-1, 2*deleted, deleted))

	changed := packages[50]
	m.Put(infoPath(changed).String(), packages[51].Text()) // another version
	m.Remove(infoPath(packages[51]).String())
	wantDeleted(t, r, changed.NARInfo.NARPath(), IfUnreferenced)
	wantOps(t, m, "stat 1 open 1 delete 1 list 1")
	if err := r.Delete(t.Context(), packages[51].NARInfo.NARPath(), IfUnreferenced); err == nil {
		t.Error("what the narinfo refers to since was deleted")
	}
}

// TestSearchEndsAtTheFirstReferrer: the rest is neither read nor waited for.
func TestSearchEndsAtTheFirstReferrer(t *testing.T) {
	r, m := newReceiver()
	packages := layPackages(m, 500)
	first := packages[0]
	for _, p := range packages {
		if infoPath(p).String() < infoPath(first).String() {
			first = p
		}
	}
	for _, p := range packages {
		if infoPath(p) != infoPath(first) {
			m.Hold("open", infoPath(p).String()) // until nobody waits for it
		}
	}
	m.ResetOps()
	wantReferenced(t, r, first)
	if got := m.Ops("open"); got > 4*parallelReads {
		t.Errorf("%d narinfos were read, of which the first refers to the NAR", got)
	}
}

// TestUnknownReferrers: an origin that does not tell has not said that nobody
// refers to the NAR.
func TestUnknownReferrers(t *testing.T) {
	for name, fail := range map[string]func(m *origintest.Memory, path string){
		"listing": func(m *origintest.Memory, _ string) {
			m.OnList(func(prefix string) error { return origintest.TimedOut("list", prefix) })
		},
		"narinfo": func(m *origintest.Memory, path string) {
			m.OnOpen(func(opened string, _ origin.OpenOptions) error {
				if opened == path {
					return origintest.Unavailable("open", opened)
				}
				return nil
			})
		},
		"body of a narinfo": func(m *origintest.Memory, path string) { m.CutBody(path, 10, 1) },
	} {
		t.Run(name, func(t *testing.T) {
			r, m := newReceiver()
			packages := layPackages(m, 40)
			nar := packages[0].NARInfo.NARPath()
			m.Remove(infoPath(packages[0]).String())
			fail(m, infoPath(packages[20]).String())
			err := r.Delete(t.Context(), nar, IfUnreferenced)
			var unavailable *origin.UnavailableError
			if !errors.As(err, &unavailable) || unavailable.Timeout != (name == "listing") {
				t.Errorf("Delete = %v, want an UnavailableError", err)
			}
			if m.Ops("delete") > 0 {
				t.Error("the NAR was deleted")
			}
			m.OnList(nil)
			m.OnOpen(nil)
			wantDeleted(t, r, nar, IfUnreferenced)
		})
	}
}

func TestClientLeavesDuringTheSearch(t *testing.T) {
	r, m := newReceiver()
	packages := layPackages(m, 40)
	m.Remove(infoPath(packages[0]).String())
	gate := m.Hold("open", "")
	ctx, leave := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- r.Delete(ctx, packages[0].NARInfo.NARPath(), IfUnreferenced) }()
	<-gate.Reached()
	leave()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("Delete = %v, want context.Canceled", err)
	}
	if m.Ops("delete") > 0 {
		t.Error("the NAR was deleted")
	}
}

// TestReferredStaysSmall: beyond its bound it forgets, and is right still.
func TestReferredStaysSmall(t *testing.T) {
	var m referred
	path := infoPath(signed("hello", 1))
	for i := range maxReferred + 1000 {
		m.add(path, fmt.Sprint(i), nix.SHA256{1})
	}
	m.add(path, "", nix.SHA256{2})
	if got := len(m.mu.known); got != maxReferred {
		t.Errorf("%d entries, want %d", got, maxReferred)
	}
	if _, ok := m.get(path, ""); ok {
		t.Error("a version without a name is remembered")
	}
	if got, ok := m.get(path, fmt.Sprint(maxReferred+999)); !ok || got != (nix.SHA256{1}) {
		t.Errorf("the last one is %v, %v", got, ok)
	}
}
