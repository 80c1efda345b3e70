package cache

import (
	"errors"
	"io"
	"io/fs"
	"testing"
	"time"

	"github.com/stevedores-org/nix-cache/caddymodule/nix"
	"github.com/stevedores-org/nix-cache/caddymodule/origin"
)

const someHash = "0123456789abcdfghijklmnpqrsvwxyz"

// mutablePaths has a path of each kind that may change.
func mutablePaths(t *testing.T) []nix.CachePath {
	var paths []nix.CachePath
	for _, path := range []string{
		someHash + ".ls",
		"log/" + someHash + "-hello.drv",
		"realisations/sha256:" + "00000000000000000000000000000000000000000000000000000000000000ff" + "!out.doi",
		"build-trace-v2/" + someHash + "-hello.drv/out.doi",
		"debuginfo/00000000000000000000000000000000000000ff.debug",
	} {
		p, err := nix.ParseCachePath(path)
		if err != nil {
			t.Fatal(err)
		}
		paths = append(paths, p)
	}
	return paths
}

func TestEveryKindHasARow(t *testing.T) {
	for k := range nix.Kinds() {
		if _, ok := kinds[k]; !ok {
			t.Errorf("there is no row for %s", k)
		}
	}
}

// tag opens a file and describes it, and returns its validator.
func (b *bench) tag(p nix.CachePath) string {
	b.Helper()
	o, err := b.files.Open(b.Context(), p, Wanted{})
	if err != nil {
		b.Fatal(err)
	}
	defer o.Close()
	info, result, err := b.files.Stat(b.Context(), p)
	if err != nil || info != o.Info || result != Bypass {
		b.Errorf("Stat(%s) = %+v, %v, %v; Open says %+v", p, info, result, err, o.Info)
	}
	return o.Tag
}

// TestMutableFilesAreNotKept: each read sees what the origin has now, whoever
// changed it.
func TestMutableFilesAreNotKept(t *testing.T) {
	for _, p := range mutablePaths(t) {
		t.Run(p.String(), func(t *testing.T) {
			b := newBench(t)
			b.origin.Put(p.String(), []byte("first"))
			b.wantGet(p, []byte("first"), Bypass)
			b.wantGet(p, []byte("first"), Bypass)
			tag := b.tag(p)
			if again := b.tag(p); again != tag || tag == "" {
				t.Errorf("one version has the tags %q and %q", tag, again)
			}
			b.origin.Put(p.String(), []byte("later"))
			b.wantGet(p, []byte("later"), Bypass)
			if b.tag(p) == tag {
				t.Errorf("two versions have the tag %q", tag)
			}
			b.origin.Remove(p.String())
			wantAbsent(t, b, p, Bypass)
			if tiers := b.cache.Tiers(); tiers.Memory.Entries+tiers.Disk.Entries > 0 {
				t.Errorf("kept: %+v", tiers)
			}
			if got := b.counters.Outcomes()["bypass"]; got != 0 {
				t.Errorf("%d of them count as fills", got)
			}
		})
	}
}

// TestUploadsOfMutableFilesAreNotKept: nobody would look for a copy.
func TestUploadsOfMutableFilesAreNotKept(t *testing.T) {
	for _, p := range mutablePaths(t) {
		t.Run(p.String(), func(t *testing.T) {
			b := newReadyBench(t)
			before := b.cache.Tiers().Disk
			in := b.files.Incoming(p, -1)
			b.read(in, []byte("content"))
			b.origin.Put(p.String(), []byte("content"))
			in.Publish()
			b.settle()
			if after := b.cache.Tiers().Disk; after != before {
				t.Errorf("the tier has %+v, before %+v", after, before)
			}
			b.wantGet(p, []byte("content"), Bypass)
		})
	}
}

func TestAbsenceOfMutableFilesIsRemembered(t *testing.T) {
	for _, p := range mutablePaths(t) {
		t.Run(p.String(), func(t *testing.T) {
			b := newBench(t)
			wantAbsent(t, b, p, Bypass)
			wantAbsent(t, b, p, Negative)
			if _, result, err := b.files.Stat(t.Context(), p); result != Negative || !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("Stat: %v, %v; want negative absence", result, err)
			}
			b.wantOps("open", 1)
			b.wantOps("stat", 0)

			b.origin.Put(p.String(), []byte("there"))
			b.files.Forget(p)
			b.wantGet(p, []byte("there"), Bypass)
		})
	}
}

func TestAbsenceOfMutableFilesByStat(t *testing.T) {
	b := newBench(t)
	p := mutablePaths(t)[0]
	for _, want := range []Result{Bypass, Negative} {
		_, result, err := b.files.Stat(t.Context(), p)
		if result != want || !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Stat: %v, %v; want absence by %v", result, err, want)
		}
	}
	wantAbsent(t, b, p, Negative)
	b.wantOps("stat", 1)
	b.wantOps("open", 0)
}

// TestForgetDuringALookUp: what the origin said before a PUT is not remembered
// after it.
func TestForgetDuringALookUp(t *testing.T) {
	b := newBench(t)
	p := mutablePaths(t)[0]
	b.origin.OnOpen(func(string, origin.OpenOptions) error {
		b.origin.OnOpen(nil)
		b.files.Forget(p) // of a PUT that comes just then
		return origin.NotExist("open", p.String())
	})
	wantAbsent(t, b, p, Bypass)
	b.origin.Put(p.String(), []byte("there"))
	b.wantGet(p, []byte("there"), Bypass)
}

func TestOutageOfMutableFiles(t *testing.T) {
	b := newBench(t)
	b.files.policy.NegativeTTL = time.Nanosecond
	known, unknown := mutablePaths(t)[0], mutablePaths(t)[1]
	wantAbsent(t, b, known, Bypass)
	down := &origin.UnavailableError{Op: "open", Err: errors.New("down")}
	b.origin.OnOpen(func(string, origin.OpenOptions) error { return down })
	wantAbsent(t, b, known, Stale)
	if _, err := b.files.Open(t.Context(), unknown, Wanted{}); !errors.Is(err, down) || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Open = %v, want that the origin is unavailable", err)
	}
}

// TestChangeUnderAReader: what breaks off goes on only with the same version.
func TestChangeUnderAReader(t *testing.T) {
	for _, changes := range []bool{false, true} {
		b := newBench(t)
		p := mutablePaths(t)[1]
		data := make([]byte, 2<<20)
		b.origin.Put(p.String(), data)
		b.origin.CutBody(p.String(), 1<<20, 1)
		o, err := b.files.Open(t.Context(), p, Wanted{})
		if err != nil {
			t.Fatal(err)
		}
		defer o.Close()
		if _, err := io.ReadFull(o.Body, make([]byte, 1<<19)); err != nil {
			t.Fatal(err)
		}
		if changes {
			b.origin.Put(p.String(), make([]byte, len(data)))
		}
		rest, err := io.ReadAll(o.Body)
		if complete := err == nil && len(rest) == len(data)-1<<19; complete == changes {
			t.Errorf("changed %v: %d more bytes, %v", changes, len(rest), err)
		}
	}
}
