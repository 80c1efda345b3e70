package cache

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"sync"
	"testing"

	"github.com/stevedores-org/nix-cache/caddymodule/nix"
	"github.com/stevedores-org/nix-cache/caddymodule/origin"
	"github.com/stevedores-org/nix-cache/caddymodule/origin/origintest"
)

func TestManyReadersOneFill(t *testing.T) {
	b := newBench(t)
	_, p, pkg := b.put("a", 6*testPart)
	gate := b.origin.HoldBody(p.String(), testPart/2)
	const readers = 50
	var group sync.WaitGroup
	results := make(chan Result, readers)
	for range readers {
		group.Go(func() {
			o, err := b.files.Open(b.Context(), p, Wanted{})
			if err != nil {
				t.Error(err)
				return
			}
			defer o.Close()
			results <- o.Result
			if got, err := io.ReadAll(o.Body); err != nil || !bytes.Equal(got, pkg.File) {
				t.Errorf("%d bytes, %v; want %d", len(got), err, len(pkg.File))
			}
		})
	}
	count := map[Result]int{}
	for range readers { // all are served while the fill is held
		count[<-results]++
	}
	gate.Release()
	group.Wait()
	if count[Miss] != 1 || count[Collapsed] != readers-1 {
		t.Errorf("results %v, want one miss and the rest collapsed", count)
	}
	b.wantOps("open", 7)
}

func TestReaderLeavesFillGoesOn(t *testing.T) {
	b := newBench(t)
	_, p, pkg := b.put("a", 3*testPart)
	gate := b.origin.HoldBody(p.String(), testPart/2)
	ctx, leave := context.WithCancel(t.Context())
	o, err := b.files.Open(ctx, p, Wanted{})
	if err != nil {
		t.Fatal(err)
	}
	first := make([]byte, 1000)
	if _, err := io.ReadFull(o.Body, first); err != nil || !bytes.Equal(first, pkg.File[:1000]) {
		t.Errorf("the first bytes did not come while the fill was held: %v", err)
	}
	leave()
	if _, err := io.Copy(io.Discard, o.Body); !errors.Is(err, context.Canceled) {
		t.Errorf("read after leaving: %v, want context canceled", err)
	}
	o.Close()
	gate.Release()
	b.settle()
	b.wantGet(p, pkg.File, Disk)
}

func TestReaderAheadOfTheStart(t *testing.T) {
	b := newBench(t)
	_, p, pkg := b.put("a", 6*testPart)
	gate := b.origin.HoldBody(p.String(), testPart/2)
	defer gate.Release()
	o, err := b.files.Open(t.Context(), p, Wanted{})
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	at := int64(2*testPart + 17)
	if _, err := o.Body.Seek(at, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 1000)
	if _, err := io.ReadFull(o.Body, got); err != nil || !bytes.Equal(got, pkg.File[at:at+1000]) {
		t.Errorf("a range behind the held first part did not come: %v", err)
	}
}

func TestBrokenBodyIsTakenUpAgain(t *testing.T) {
	b := newBench(t)
	_, p, pkg := b.put("a", 3*testPart)
	b.origin.CutBody(p.String(), testPart/2, 3)
	b.wantGet(p, pkg.File, Miss)
	b.settle()
	b.wantGet(p, pkg.File, Disk)
}

func TestDamagedNARIsNeverServedWhole(t *testing.T) {
	for _, offset := range []int64{0, testPart + 5, 3 * testPart} {
		t.Run(fmt.Sprint(offset), func(t *testing.T) {
			b := newBench(t)
			_, p, pkg := b.put("a", 3*testPart)
			b.origin.FlipByte(p.String(), offset, 4) // in each body of one fill
			got, _, err := b.get(p)
			var damaged *DamagedError
			if !errors.As(err, &damaged) || len(got) >= len(pkg.File) {
				t.Errorf("%d of %d bytes, error %v; want a DamagedError before the end", len(got), len(pkg.File), err)
			}
			b.settle()
			if got := b.counters.Outcomes()["mismatch"]; got != 1 {
				t.Errorf("%d mismatches counted, want 1", got)
			}
			b.origin.ResetOps()
			if _, err := b.files.Open(t.Context(), p, Wanted{Offset: offset}); !errors.As(err, &damaged) {
				t.Errorf("the next request: %v, want a DamagedError", err)
			}
			if _, _, err := b.files.Stat(t.Context(), p); !errors.As(err, &damaged) {
				t.Errorf("Stat: %v, want a DamagedError", err)
			}
			b.wantOps("open", 0)
			b.origin.Remove(p.String())
			wantAbsentByStat(t, b, p)
			b.origin.Put(p.String(), pkg.File)
			b.files.Forget(p)
			b.wantGet(p, pkg.File, Miss)
		})
	}
}

// wantAbsentByStat: so whoever mends it at the origin can push it again at once.
func wantAbsentByStat(t *testing.T, b *bench, p nix.CachePath) {
	t.Helper()
	if _, _, err := b.files.Stat(t.Context(), p); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Stat of a damaged file that has been deleted: %v", err)
	}
	wantAbsent(t, b, p, Negative)
}

// TestEmptyObjectIsNoNAR: nothing tells it from a whole one but its name.
func TestEmptyObjectIsNoNAR(t *testing.T) {
	for name, bench := range map[string]func(*testing.T) *bench{
		"filled":         newBench,
		"passed through": func(t *testing.T) *bench { return benchIn(t, "", origintest.NewMemory()) },
	} {
		t.Run(name, func(t *testing.T) {
			b := bench(t)
			_, p, _ := b.put("a", 1000)
			b.origin.Put(p.String(), nil)
			for range 2 {
				var damaged *DamagedError
				if _, err := b.files.Open(t.Context(), p, Wanted{}); !errors.As(err, &damaged) {
					t.Errorf("open: %v, want a DamagedError", err)
				}
				b.settle()
			}
			if got := b.counters.Outcomes()["mismatch"]; got != 1 {
				t.Errorf("%d mismatches counted, want 1", got)
			}
			nothing := nix.NARPath(nix.SHA256(sha256.Sum256(nil)), nix.CompressionNone)
			b.origin.Put(nothing.String(), nil)
			if got, _, err := b.get(nothing); err != nil || len(got) > 0 {
				t.Errorf("a file named after nothing: %d bytes, %v", len(got), err)
			}
		})
	}
}

func TestObjectChangedBetweenParts(t *testing.T) {
	b := newBench(t)
	_, p, pkg := b.put("a", 3*testPart)
	var once sync.Once
	b.origin.OnOpen(func(path string, opts origin.OpenOptions) error {
		if opts.Offset > 0 {
			once.Do(func() { b.origin.Put(path, pkg.File) })
		}
		return nil
	})
	if _, _, err := b.get(p); !errors.Is(err, origin.ErrChanged) {
		t.Errorf("get: %v, want ErrChanged", err)
	}
	b.settle()
	b.wantGet(p, pkg.File, Miss)
}

// A fill that began before a change must not bring back, after Forget, what
// was there before it.
func TestForgetDuringFill(t *testing.T) {
	b := newBench(t)
	info, nar, pkg := b.put("a", 2*testPart)
	newer := append(pkg.Text(), "x"...)
	for _, test := range []struct {
		path          nix.CachePath
		before, after []byte
	}{{info, pkg.Text(), newer}, {nar, pkg.File, pkg.File}} {
		gate := b.origin.HoldBody(test.path.String(), 10)
		type answer struct {
			data []byte
			err  error
		}
		early := make(chan answer)
		go func() {
			data, _, err := b.get(test.path)
			early <- answer{data, err}
		}()
		<-gate.Reached()
		gate.HoldNoMore()
		b.origin.Put(test.path.String(), test.after)
		b.files.Forget(test.path)
		b.wantGet(test.path, test.after, Miss) // not joined to the old fill
		gate.Release()
		if got := <-early; got.err == nil && !bytes.Equal(got.data, test.before) && !bytes.Equal(got.data, test.after) {
			t.Errorf("%s: the early reader got %d bytes of neither version", test.path, len(got.data))
		}
		b.settle()
		if got, _, err := b.get(test.path); err != nil || !bytes.Equal(got, test.after) {
			t.Errorf("%s: after the old fill ended, %d bytes, %v; want the newer version", test.path, len(got), err)
		}
	}
}

// heldFill begins a fill of a NAR that does not come to its end by itself.
func (b *bench) heldFill() (nix.CachePath, *Object, *flight) {
	b.Helper()
	_, p, _ := b.put("a", 3*testPart)
	gate := b.origin.HoldBody(p.String(), 100)
	o, err := b.files.Open(b.Context(), p, Wanted{})
	if err != nil {
		b.Fatal(err)
	}
	<-gate.Reached()
	gate.HoldNoMore()
	b.cache.mu.Lock()
	defer b.cache.mu.Unlock()
	return p, o, b.cache.mu.flights[b.files.key(p)]
}

func (b *bench) wantNothingFilled() {
	b.Helper()
	b.until("no fill is under way", func() bool { return b.counters.InFlight.Load() == 0 })
	b.cache.mu.Lock()
	defer b.cache.mu.Unlock()
	if got := b.counters.Outcomes()["failed"]; got != 0 {
		b.Errorf("%d fills count as failed", got)
	}
}

// TestOutdatedFillEndsWithItsReaders: nobody else has a use for it.
func TestOutdatedFillEndsWithItsReaders(t *testing.T) {
	for name, outdate := range map[string]func(*bench, nix.CachePath){
		"forgotten": func(b *bench, p nix.CachePath) { b.files.Forget(p) },
		"uploaded":  func(b *bench, p nix.CachePath) { b.files.Uploaded(p) },
	} {
		for _, late := range []bool{false, true} {
			t.Run(fmt.Sprint(name, late), func(t *testing.T) {
				b := newReadyBench(t)
				p, o, f := b.heldFill()
				if late {
					o.Close()
				}
				outdate(b, p)
				if !late {
					if b.counters.InFlight.Load() != 1 {
						t.Error("the fill did not outlive the change though it has a reader")
					}
					o.Close()
				}
				if _, err := f.open(t.Context(), Collapsed); err != errLanded {
					t.Errorf("who comes then gets %v, want to ask again", err)
				}
				b.wantNothingFilled()
				file, _ := b.origin.Get(p.String())
				b.wantGet(p, file, Miss)
			})
		}
	}
}

// TestOutdatedBeforeItsAnswer: who waits for the answer gets the file.
func TestOutdatedBeforeItsAnswer(t *testing.T) {
	b := newReadyBench(t)
	info, nar, pkg := b.put("a", 3*testPart)
	for p, want := range map[nix.CachePath][]byte{info: pkg.Text(), nar: pkg.File} {
		gate := b.origin.Hold("open", p.String())
		got := make(chan error)
		go func() {
			data, _, err := b.get(p)
			if err == nil && !bytes.Equal(data, want) {
				err = fmt.Errorf("%d bytes", len(data))
			}
			got <- err
		}()
		<-gate.Reached()
		b.files.Forget(p)
		gate.Release()
		if err := <-got; err != nil {
			t.Errorf("get %s: %v", p, err)
		}
	}
}

// ask asks for a file; leave has its client give up, and waits for that.
func (b *bench) ask(p nix.CachePath) (leave func()) {
	ctx, cancel := context.WithCancel(b.Context())
	left := make(chan error)
	go func() {
		_, err := b.files.Open(ctx, p, Wanted{})
		left <- err
	}()
	return func() {
		cancel()
		<-left
	}
}

// TestOutdatedBeforeItsAnswerWithoutReaders: such a fill ends too.
func TestOutdatedBeforeItsAnswerWithoutReaders(t *testing.T) {
	b := newReadyBench(t)
	_, p, _ := b.put("a", 3*testPart)
	gate, body := b.origin.Hold("open", p.String()), b.origin.HoldBody(p.String(), 100)
	defer body.Release()
	leave := b.ask(p)
	<-gate.Reached()
	leave()
	b.files.Forget(p)
	gate.Release()
	b.until("the flight is over", func() bool {
		b.cache.mu.Lock()
		defer b.cache.mu.Unlock()
		return len(b.cache.mu.outdated) == 0
	})
	b.wantNothingFilled()
}

func TestCloseEndsOutdatedFlights(t *testing.T) {
	b := newReadyBench(t)
	_, p, _ := b.put("a", 1000)
	gate := b.origin.Hold("open", p.String())
	defer gate.Release()
	leave := b.ask(p)
	<-gate.Reached()
	b.files.Forget(p)
	leave()
	b.close()
}

func TestCloseWaitsForReaders(t *testing.T) {
	b := newBench(t)
	_, p, pkg := b.put("a", 3*testPart)
	gate := b.origin.HoldBody(p.String(), 100)
	o, err := b.files.Open(t.Context(), p, Wanted{})
	if err != nil {
		t.Fatal(err)
	}
	closed := make(chan error)
	go func() { closed <- b.cache.Close() }()
	b.until("the cache is closing", func() bool {
		b.cache.mu.Lock()
		defer b.cache.mu.Unlock()
		return b.cache.mu.closing
	})
	_, late, latePkg := b.put("b", 1000)
	b.wantGet(late, latePkg.File, Bypass) // a request of the old config that comes late
	gate.Release()
	if got, err := io.ReadAll(o.Body); err != nil || !bytes.Equal(got, pkg.File) {
		t.Errorf("reader of a closing cache: %d bytes, %v; want all %d", len(got), err, len(pkg.File))
	}
	o.Close()
	if err := <-closed; err != nil {
		t.Error(err)
	}
	b.cache = New("", Limits{}, b.files.log) // for the Cleanup
}

// A range far ahead is read next, not when its turn comes.
func TestRangeAheadIsReadNext(t *testing.T) {
	b := newBench(t)
	b.files = b.cache.Namespace("one", b.origin, Policy{PartSize: testPart, Parallel: 1}, b.counters, b.files.log)
	_, p, pkg := b.put("a", 20*testPart)
	gate := b.origin.HoldBody(p.String(), testPart)
	var order []int64
	b.origin.OnOpen(func(_ string, opts origin.OpenOptions) error {
		order = append(order, opts.Offset/testPart) // one way: one at a time
		return nil
	})
	o, err := b.files.Open(t.Context(), p, Wanted{})
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	<-gate.Reached()
	at := int64(15*testPart + 99)
	if _, err := o.Body.Seek(at, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	read := make(chan error)
	go func() {
		got, err := io.ReadAll(o.Body)
		if err == nil && !bytes.Equal(got, pkg.File[at:]) {
			err = errors.New("wrong bytes")
		}
		read <- err
	}()
	b.until("the range is waited for", func() bool {
		b.cache.mu.Lock()
		defer b.cache.mu.Unlock()
		f := b.cache.mu.flights[b.files.key(p)].fill
		f.mu.Lock()
		defer f.mu.Unlock()
		return len(f.mu.wanted) > 0
	})
	gate.Release()
	if err := <-read; err != nil {
		t.Error(err)
	}
	b.settle()
	if want := []int64{0, 1, 15}; !slices.Equal(order[:3], want) {
		t.Errorf("parts were read in the order %v, want %v first", order, want)
	}
}

func TestDiskFailsUnderAFill(t *testing.T) {
	b := newBench(t)
	_, p, pkg := b.put("a", 4*testPart)
	gate := b.origin.HoldBody(p.String(), testPart/2)
	o, err := b.files.Open(t.Context(), p, Wanted{})
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	<-gate.Reached()
	b.cache.mu.Lock()
	b.cache.mu.flights[b.files.key(p)].fill.file.File.Close() // from now on each access to it fails
	b.cache.mu.Unlock()
	gate.Release()
	if got, err := io.ReadAll(o.Body); err != nil || !bytes.Equal(got, pkg.File) {
		t.Errorf("%d bytes, %v; want all %d, from the origin", len(got), err, len(pkg.File))
	}
	b.settle()
	if got := b.counters.Outcomes()["failed"]; got != 1 {
		t.Errorf("%d fills failed, want 1", got)
	}
	b.wantGet(p, pkg.File, Miss)
}

func TestPartSize(t *testing.T) {
	const mib = 1 << 20
	for _, test := range []struct {
		rest, most, ways int64
		want, parts      int64
	}{
		{0, 16 * mib, 8, 16 * mib, 0},
		{1, 16 * mib, 8, 4 * mib, 1},
		{20 * mib, 16 * mib, 8, 4 * mib, 5},
		{128 * mib, 16 * mib, 8, 16 * mib, 8},
		{129 * mib, 16 * mib, 8, 129 * mib / 16, 16}, // not 9, of which one would be alone in its round
		{200 * mib, 16 * mib, 8, 200 * mib / 16, 16},
		{20 * mib, mib, 8, mib, 20}, // a smaller part_size is obeyed
	} {
		got := partSize(test.rest, test.most, test.ways)
		if parts := (test.rest + got - 1) / got; got != test.want || parts != test.parts {
			t.Errorf("partSize(%d, %d, %d) = %d in %d parts, want %d in %d", test.rest, test.most, test.ways, got, parts, test.want, test.parts)
		}
	}
}

func TestStatDuringAFill(t *testing.T) {
	b := newBench(t)
	_, p, pkg := b.put("a", 3*testPart)
	gate := b.origin.HoldBody(p.String(), testPart/2)
	defer gate.Release()
	o, err := b.files.Open(t.Context(), p, Wanted{})
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	info, result, err := b.files.Stat(t.Context(), p)
	if err != nil || result != Collapsed || info.Size != int64(len(pkg.File)) || info.Tag != o.Tag {
		t.Errorf("Stat = %+v, %v, %v; want what the fill knows", info, result, err)
	}
	b.wantOps("stat", 0)
}
