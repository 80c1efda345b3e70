package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stevedores-org/nix-cache/caddymodule/cache/disk"
	"github.com/stevedores-org/nix-cache/caddymodule/nix"
	"github.com/stevedores-org/nix-cache/caddymodule/nix/nixtest"
	"github.com/stevedores-org/nix-cache/caddymodule/origin"
	"github.com/stevedores-org/nix-cache/caddymodule/origin/origintest"
)

const (
	testPart = 1 << 20
	testDisk = 64 << 20
)

// bench is a cache before an origin in memory.
type bench struct {
	*testing.T
	origin   *origintest.Memory
	cache    *Cache
	files    *Namespace
	counters *Counters
	dir      string
}

var remote = Policy{NegativeTTL: time.Hour, PartSize: testPart, Parallel: 4}

func newBench(t *testing.T) *bench { return benchIn(t, t.TempDir(), origintest.NewMemory()) }

func benchIn(t *testing.T, dir string, o *origintest.Memory) *bench {
	b := &bench{T: t, origin: o, counters: new(Counters), dir: dir}
	limits := Limits{Memory: 4 << 20, Disk: disk.Limits{Bytes: testDisk}}
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	b.cache = New(dir, limits, log)
	b.files = b.cache.Namespace(o.String(), o, remote, b.counters, log)
	t.Cleanup(b.close)
	return b
}

func (b *bench) close() {
	if err := b.cache.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		b.Error(err)
	}
}

// settle waits until no flight and no upload is under way.
func (b *bench) settle() {
	b.Helper()
	b.until("flights have landed", func() bool {
		b.cache.mu.Lock()
		defer b.cache.mu.Unlock()
		return len(b.cache.mu.flights)+len(b.cache.mu.incoming) == 0
	})
}

// until waits for a condition.
func (b *bench) until(what string, met func() bool) {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Context(), 20*time.Second)
	defer cancel()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !met() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			b.Fatalf("waiting until %s: %v", what, ctx.Err())
		}
	}
}

// get reads a whole file through the cache.
func (b *bench) get(p nix.CachePath) ([]byte, Result, error) {
	o, err := b.files.Open(b.Context(), p, Wanted{})
	if err != nil {
		return nil, 0, err
	}
	defer o.Close()
	data, err := io.ReadAll(o.Body)
	return data, o.Result, err
}

func (b *bench) wantGet(p nix.CachePath, want []byte, result Result) {
	b.Helper()
	got, how, err := b.get(p)
	if err != nil || !bytes.Equal(got, want) || how != result {
		b.Errorf("get %s: %d bytes, %v, %v; want %d bytes, %v", p, len(got), how, err, len(want), result)
	}
}

func (b *bench) wantOps(method string, want int) {
	b.Helper()
	if got := b.origin.Ops(method); got != want {
		b.Errorf("%d %s operations at the origin, want %d", got, method, want)
	}
}

// put makes a package of about size bytes and stores it at the origin.
func (b *bench) put(name string, size int) (narinfo, nar nix.CachePath, pkg nixtest.Package) {
	pkg = nixtest.NewPackage(name, size, nixtest.SignedBy(nixtest.NewKey("test-1")))
	narinfo, nar = nix.NARInfoPath(pkg.NARInfo.StorePath), pkg.NARInfo.NARPath()
	b.origin.Put(narinfo.String(), pkg.Text())
	b.origin.Put(nar.String(), pkg.File)
	return narinfo, nar, pkg
}

func TestNARInfoIsFetchedOnce(t *testing.T) {
	b := newBench(t)
	p, _, pkg := b.put("a", 100)
	b.wantGet(p, pkg.Text(), Miss)
	b.settle()
	b.wantGet(p, pkg.Text(), Memory)
	b.wantOps("open", 1)
	b.wantOps("stat", 0)
}

func TestNARIsFetchedOnce(t *testing.T) {
	for _, size := range []int{1, 1000, testPart - 200, testPart, testPart + 1, 5*testPart + 12345} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			b := newBench(t)
			_, p, pkg := b.put("a", size)
			b.wantGet(p, pkg.File, Miss)
			b.settle()
			b.wantGet(p, pkg.File, Disk)
			b.wantOps("open", (len(pkg.File)+testPart-1)/testPart)
			b.wantOps("stat", 0)
			if got := b.counters.Outcomes()["stored"]; got != 1 {
				t.Errorf("%d fills stored, want 1", got)
			}
		})
	}
}

func TestRestartFindsEverythingOnDisk(t *testing.T) {
	b := newBench(t)
	info, nar, pkg := b.put("a", 3*testPart)
	b.get(info)
	b.get(nar)
	b.settle()
	b.close()

	b.origin.ResetOps()
	again := benchIn(t, b.dir, b.origin)
	again.wantGet(info, pkg.Text(), Disk)
	again.wantGet(nar, pkg.File, Disk)
	again.wantOps("open", 0)
	again.settle()
	again.until("the narinfo is in memory", func() bool { _, how, _ := again.get(info); return how == Memory })
}

func TestAbsenceIsRememberedUntilForget(t *testing.T) {
	b := newBench(t)
	pkg := nixtest.NewPackage("a", 100, nixtest.SignedBy(nixtest.NewKey("test-1")))
	for _, p := range []nix.CachePath{nix.NARInfoPath(pkg.NARInfo.StorePath), pkg.NARInfo.NARPath()} {
		t.Run(p.Kind().String(), func(t *testing.T) {
			b.origin.ResetOps()
			wantAbsent(t, b, p, Miss)
			b.settle()
			wantAbsent(t, b, p, Negative)
			if _, result, err := b.files.Stat(t.Context(), p); result != Negative || !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("Stat: %v, %v; want negative absence", result, err)
			}
			b.wantOps("open", 1)
			b.wantOps("stat", 0)

			data := pkg.File
			if p.Kind() == nix.KindNARInfo {
				data = pkg.Text()
			}
			b.origin.Put(p.String(), data)
			b.files.Forget(p)
			b.wantGet(p, data, Miss)
		})
	}
}

func wantAbsent(t *testing.T, b *bench, p nix.CachePath, want Result) {
	t.Helper()
	_, err := b.files.Open(t.Context(), p, Wanted{})
	var absent *AbsentError
	if !errors.As(err, &absent) || absent.Result != want || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("open %s: %v, want absence by %v", p, err, want)
	}
}

func TestOutageIsNotAbsence(t *testing.T) {
	b := newBench(t)
	info, nar, pkg := b.put("a", 100)
	b.origin.OnOpen(func(path string, _ origin.OpenOptions) error { return origintest.Unavailable("open", path) })
	for _, p := range []nix.CachePath{info, nar} {
		_, err := b.files.Open(t.Context(), p, Wanted{})
		var unavailable *origin.UnavailableError
		if !errors.As(err, &unavailable) || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("open %s: %v, want an UnavailableError", p, err)
		}
	}
	b.settle()
	b.origin.OnOpen(nil)
	b.wantGet(info, pkg.Text(), Miss)
	b.wantGet(nar, pkg.File, Miss)
}

func TestStatNeverFills(t *testing.T) {
	b := newBench(t)
	info, nar, pkg := b.put("a", 2*testPart)
	for p, size := range map[nix.CachePath]int{info: len(pkg.Text()), nar: len(pkg.File)} {
		b.origin.ResetOps()
		got, result, err := b.files.Stat(t.Context(), p)
		if err != nil || result != Miss || got.Size != int64(size) {
			t.Errorf("Stat %s = %+v, %v, %v; want size %d by a miss", p, got, result, err, size)
		}
		if ops := b.origin.Ops("open") + b.origin.Ops("stat"); ops != 1 {
			t.Errorf("Stat %s took %d operations, want 1", p, ops)
		}
		o, err := b.files.Open(t.Context(), p, Wanted{})
		if err != nil {
			t.Fatal(err)
		}
		if o.Result != Miss || o.Tag != got.Tag || o.Tag == "" {
			t.Errorf("open after Stat: %v with tag %q, want a miss with Stat's tag %q", o.Result, o.Tag, got.Tag)
		}
		o.Close()
	}
}

func TestFlippedNARInfoOnDiskIsFetchedAnew(t *testing.T) {
	b := newBench(t)
	p, _, pkg := b.put("a", 100)
	b.get(p)
	b.settle()
	b.close()
	flipFiles(t, b.dir)
	again := benchIn(t, b.dir, b.origin)
	again.wantGet(p, pkg.Text(), Miss)
}

// flipFiles changes a byte of every file below dir/objects.
func flipFiles(t *testing.T, dir string) {
	files, err := filepath.Glob(filepath.Join(dir, "objects", "*", "*"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no file in the disk tier: %v", err)
	}
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		data[len(data)/2] ^= 1
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTooLargeForTheTierIsPassedThrough(t *testing.T) {
	b := newBench(t)
	_, p, pkg := b.put("a", testDisk+1)
	b.wantGet(p, pkg.File, Bypass)
	o, err := b.files.Open(t.Context(), p, Wanted{})
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	if _, err := o.Body.Seek(-10, io.SeekEnd); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(o.Body); err != nil || !bytes.Equal(got, pkg.File[len(pkg.File)-10:]) {
		t.Errorf("the end passed through: %x, %v", got, err)
	}
}

func TestServesWithoutDisk(t *testing.T) {
	o := origintest.NewMemory()
	b := benchIn(t, "", o)
	info, nar, pkg := b.put("a", 2*testPart)
	b.wantGet(info, pkg.Text(), Miss)
	b.settle()
	b.wantGet(info, pkg.Text(), Memory)
	b.wantGet(nar, pkg.File, Bypass)
}

func TestSecondCacheOnOneDirectoryServesWithoutIt(t *testing.T) {
	b := newBench(t)
	_, p, pkg := b.put("a", testPart)
	b.wantGet(p, pkg.File, Miss)
	b.settle()
	second := benchIn(t, b.dir, b.origin)
	second.wantGet(p, pkg.File, Bypass)
	b.close()
	second.until("the directory is taken over", func() bool { return second.cache.disk.Load() != nil })
	second.wantGet(p, pkg.File, Disk)
}

func TestNamespacesShareNothing(t *testing.T) {
	b := newBench(t)
	info, nar, pkg := b.put("a", 1000)
	b.wantGet(info, pkg.Text(), Miss)
	b.wantGet(nar, pkg.File, Miss)
	b.settle()
	other := b.cache.Namespace("another", origintest.NewMemory(), remote, new(Counters), b.files.log)
	for _, p := range []nix.CachePath{info, nar} {
		if _, err := other.Open(t.Context(), p, Wanted{}); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("open %s in another namespace: %v, want absence", p, err)
		}
	}
}

func TestStaleAbsenceInAnOutage(t *testing.T) {
	b := newBench(t)
	b.files = b.cache.Namespace("short", b.origin, Policy{NegativeTTL: time.Nanosecond, PartSize: testPart}, b.counters, b.files.log)
	known, _, pkg := b.put("known", 100)
	b.origin.Remove(known.String())
	wantAbsent(t, b, known, Miss)
	b.settle()
	b.origin.OnOpen(func(path string, _ origin.OpenOptions) error { return origintest.Unavailable("open", path) })
	wantAbsent(t, b, known, Stale)
	if _, result, err := b.files.Stat(t.Context(), known); result != Miss || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Stat in an outage: %v, %v; want absence", result, err)
	}
	b.settle()
	b.origin.OnOpen(nil)
	b.origin.Put(known.String(), pkg.Text())
	b.wantGet(known, pkg.Text(), Miss) // not remembered beyond its time
	b.settle()
	b.files.Forget(known)
	b.origin.OnOpen(func(path string, _ origin.OpenOptions) error { return origintest.Unavailable("open", path) })
	if _, _, err := b.get(known); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("get of a forgotten file in an outage: %v, want an outage", err)
	}
}

// TestFoundFilesAreNoStaleAbsence: what the origin said last is what counts,
// whatever had the file meanwhile.
func TestFoundFilesAreNoStaleAbsence(t *testing.T) {
	asks := map[string]func(*bench, nix.CachePath) error{
		"open": func(b *bench, p nix.CachePath) error { _, _, err := b.get(p); return err },
		"stat": func(b *bench, p nix.CachePath) error { _, _, err := b.files.Stat(b.Context(), p); return err },
	}
	for name, ask := range asks {
		for _, kind := range []nix.Kind{nix.KindNARInfo, nix.KindNAR, nix.KindListing} {
			t.Run(fmt.Sprint(name, kind), func(t *testing.T) {
				b := newBench(t)
				b.files.policy.NegativeTTL = time.Nanosecond
				info, nar, pkg := b.put("a", 100)
				p, file := info, pkg.Text()
				switch kind {
				case nix.KindNAR:
					p, file = nar, pkg.File
				case nix.KindListing:
					p = mutablePaths(t)[0]
				}
				b.origin.Remove(p.String())
				if err := ask(b, p); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("%v, want absence", err)
				}
				b.settle()
				b.origin.Put(p.String(), file)
				if err := ask(b, p); err != nil {
					t.Error(err)
				}
				b.settle()
				if b.cache.negative.had(b.files.key(p)) {
					t.Error("in an outage the file would be absent")
				}
			})
		}
	}
}

// TestLimitsSetWhileTheTierIsOpened: the mark of the last stop is a pipe, which
// keeps the opening waiting.
func TestLimitsSetWhileTheTierIsOpened(t *testing.T) {
	b := newBench(t)
	b.cache.Start()
	b.close()
	mark := filepath.Join(b.dir, "clean")
	if err := errors.Join(os.Remove(mark), unix.Mkfifo(mark, 0o600)); err != nil {
		t.Skip(err)
	}
	b = benchIn(t, b.dir, origintest.NewMemory())
	opened := make(chan struct{})
	go func() {
		b.cache.Start()
		close(opened)
	}()
	pipe, err := os.OpenFile(mark, os.O_WRONLY, 0) // returns when it is read
	if err != nil {
		t.Fatal(err)
	}
	b.cache.SetLimits(Limits{Disk: disk.Limits{Bytes: testDisk / 2}})
	pipe.WriteString("0")
	pipe.Close()
	<-opened
	if got := b.cache.Tiers().Disk.Limit; got != testDisk/2 {
		t.Errorf("the limit is %d, want the %d that were set", got, testDisk/2)
	}
}

func TestVerifyRefusesWhatTheOriginHas(t *testing.T) {
	b := newBench(t)
	p, _, pkg := b.put("a", 100)
	refusal := errors.New("not signed")
	policy := remote
	policy.Verify = Verification{Name: "not evil", Check: func(_ nix.CachePath, body []byte) error {
		if bytes.Contains(body, []byte("evil")) {
			return refusal
		}
		return nil
	}}
	b.files = b.cache.Namespace("verified", b.origin, policy, b.counters, b.files.log)
	b.origin.Put(p.String(), []byte("evil"))
	for range 2 {
		var damaged *DamagedError
		if _, _, err := b.get(p); !errors.As(err, &damaged) {
			t.Errorf("get: %v, want a DamagedError", err)
		}
		b.settle()
	}
	b.origin.Put(p.String(), pkg.Text())
	b.wantGet(p, pkg.Text(), Miss)
}

// TestVerifyRefusesWhatIsInTheTiers: what was stored before anything was verified,
// or under other keys, is not served, nor described, from memory or from disk.
func TestVerifyRefusesWhatIsInTheTiers(t *testing.T) {
	b := newReadyBench(t)
	p, _, pkg := b.put("a", 100)
	lax := b.files
	verified := func(name string, refusal error, checks *int) *Namespace {
		policy := remote
		policy.Verify = Verification{Name: name, Check: func(nix.CachePath, []byte) error { *checks++; return refusal }}
		return b.cache.Namespace(b.origin.String(), b.origin, policy, b.counters, b.files.log)
	}
	for name, forget := range map[string]func(){
		"memory": func() {},
		"disk":   func() { b.cache.memory.forget(lax.key(p)) },
	} {
		t.Run(name, func(t *testing.T) {
			b.settle()
			b.files = lax
			b.get(p)
			b.settle()
			b.origin.ResetOps()
			checks := 0
			forget()
			b.files = verified("accepts", nil, &checks)
			for range 3 {
				if _, _, err := b.files.Stat(t.Context(), p); err != nil {
					t.Error(err)
				}
				if got, _, err := b.get(p); err != nil || !bytes.Equal(got, pkg.Text()) {
					t.Errorf("get: %q, %v", got, err)
				}
			}
			if ops := b.origin.Ops("open"); checks == 0 || ops != 0 {
				t.Errorf("checked %d times, %d requests to the origin; want some and 0", checks, ops)
			}
			if name == "memory" && checks != 1 { // from disk it may come several times until memory has it
				t.Errorf("checked %d times, want once", checks)
			}
			forget()
			b.files = verified("refuses", errors.New("not signed"), &checks)
			var damaged *DamagedError
			if _, _, err := b.files.Stat(t.Context(), p); !errors.As(err, &damaged) {
				t.Errorf("stat: %v, want a DamagedError", err)
			}
			if _, _, err := b.get(p); !errors.As(err, &damaged) {
				t.Errorf("get: %v, want a DamagedError", err)
			}
		})
	}
}

// TestVerifyRefusesWhatAnotherAsksFor: the flight that brings a file may be of a
// config that verifies nothing.
func TestVerifyRefusesWhatAnotherAsksFor(t *testing.T) {
	b := newBench(t)
	p, _, pkg := b.put("a", 100)
	policy := remote
	policy.Verify = Verification{Name: "refuses", Check: func(nix.CachePath, []byte) error { return errors.New("not signed") }}
	strict := b.cache.Namespace(b.origin.String(), b.origin, policy, b.counters, b.files.log)
	gate := b.origin.Hold("open", p.String())
	var both sync.WaitGroup
	both.Go(func() { b.wantGet(p, pkg.Text(), Miss) })
	<-gate.Reached()
	both.Go(func() {
		var damaged *DamagedError
		if _, err := strict.Open(t.Context(), p, Wanted{}); !errors.As(err, &damaged) {
			t.Errorf("open: %v, want a DamagedError", err)
		}
	})
	gate.Release()
	both.Wait()
}

// A NAR that was changed on disk is found out: at the first use after a stop
// without order, and at any time if its modification shows.
func TestFlippedNAROnDiskIsFetchedAnew(t *testing.T) {
	b := newBench(t)
	_, p, pkg := b.put("a", 2*testPart)
	b.get(p)
	b.settle()
	b.wantGet(p, pkg.File, Disk)
	flipFiles(t, b.dir)
	b.wantGet(p, pkg.File, Miss)
	b.settle()

	b.close()
	if err := os.Remove(filepath.Join(b.dir, "clean")); err != nil {
		t.Fatal(err)
	}
	flipFiles(t, b.dir)
	again := benchIn(t, b.dir, b.origin)
	again.wantGet(p, pkg.File, Miss)
	again.settle()
	again.wantGet(p, pkg.File, Disk)
}
