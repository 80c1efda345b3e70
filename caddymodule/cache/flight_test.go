package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stevedores-org/nix-cache/caddymodule/nix"
	"github.com/stevedores-org/nix-cache/caddymodule/nix/nixtest"
	"github.com/stevedores-org/nix-cache/caddymodule/origin"
	"github.com/stevedores-org/nix-cache/caddymodule/origin/limit"
	"github.com/stevedores-org/nix-cache/caddymodule/origin/origintest"
)

// limitedBench is a bench whose origin takes so many requests at a time.
func limitedBench(t *testing.T, dir string, places int) (*bench, *limit.Budget) {
	b := benchIn(t, dir, origintest.NewMemory())
	budget := limit.NewBudget(places)
	o := limit.New(b.origin, budget, func(path string) (limit.Class, bool) {
		if strings.HasSuffix(path, ".narinfo") {
			return limit.Small, false
		}
		return limit.Large, false
	})
	b.files = b.cache.Namespace("limited", o, remote, b.counters, b.files.log)
	return b, budget
}

// leaving opens a file and leaves; left is called when it has.
func (b *bench) leaving(p nix.CachePath, after time.Duration, left func(error)) {
	go func() {
		ctx, cancel := context.WithTimeout(b.Context(), after)
		defer cancel()
		o, err := b.files.Open(ctx, p, Wanted{})
		if err == nil {
			o.Close()
		}
		left(err)
	}()
}

// TestReadersThatLeaveAreNotWaitedFor: what they asked for is not asked of the
// origin, and takes no memory.
func TestReadersThatLeaveAreNotWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, budget := limitedBench(t, "", 1)
		gate := b.origin.Hold("stat", "")
		go b.files.Stat(t.Context(), path(t, "nar/"+strings.Repeat("0", 52)+".nar"))
		synctest.Wait() // the only place is taken
		for i := range 500 {
			b.leaving(narinfoOf(t, i), time.Millisecond, func(err error) {
				if !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("a reader that left: %v", err)
				}
			})
		}
		synctest.Wait()
		if got := budget.Waiting(); got != 500 {
			t.Errorf("%d requests wait, want 500", got)
		}
		<-time.After(2 * time.Millisecond)
		synctest.Wait()
		if flights := b.flights(); budget.Waiting() != 0 || flights != 0 {
			t.Errorf("%d requests wait for readers that have left, of %d flights", budget.Waiting(), flights)
		}
		gate.Release()
		synctest.Wait()
		b.wantOps("open", 0)
	})
}

func path(t *testing.T, text string) nix.CachePath {
	t.Helper()
	p, err := nix.ParseCachePath(text)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func narinfoOf(t *testing.T, i int) nix.CachePath {
	t.Helper()
	return path(t, strings.ReplaceAll(fmt.Sprintf("%032d.narinfo", i), "e", "f"))
}

func (b *bench) flights() int {
	b.cache.mu.Lock()
	defer b.cache.mu.Unlock()
	return len(b.cache.mu.flights) + len(b.cache.mu.outdated)
}

// TestNewcomerToADesertedFlight: it has nothing of the end of that one.
func TestNewcomerToADesertedFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, budget := limitedBench(t, "", 1)
		info, _, pkg := b.put("a", 1)
		for range 100 {
			place, err := budget.Take(t.Context(), limit.Request{})
			if err != nil {
				t.Fatal(err)
			}
			b.leaving(info, time.Millisecond, func(error) {})
			var newcomer sync.WaitGroup
			newcomer.Go(func() {
				<-time.After(time.Millisecond) // the flight waits, is deserted or gone
				if got, _, err := b.get(info); err != nil || !bytes.Equal(got, pkg.Text()) {
					t.Errorf("%q, %v", got, err)
				}
			})
			<-time.After(2 * time.Millisecond)
			place.GiveBack()
			newcomer.Wait()
			b.files.Forget(info)
		}
		b.wantOps("open", 100)
	})
}

// TestFlightOfSeveralClients: who joins the flight of a client that has asked for
// much does not wait for all of that, and who has asked for much does not make
// others wait by joining theirs.
func TestFlightOfSeveralClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, budget := limitedBench(t, "", 1)
		place, err := budget.Take(t.Context(), limit.Request{})
		if err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex
		var asked []string
		b.origin.OnOpen(func(path string, _ origin.OpenOptions) error {
			mu.Lock()
			defer mu.Unlock()
			asked = append(asked, path)
			return nil
		})
		open := func(client byte, p nix.CachePath) {
			network := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, client}), 32)
			go b.files.Open(origin.WithAsker(t.Context(), origin.Asker{Client: network}), p, Wanted{})
			synctest.Wait()
		}
		for i := range 100 {
			open(1, narinfoOf(t, i))
		}
		open(2, narinfoOf(t, 99)) // as well
		open(2, narinfoOf(t, 100))
		open(1, narinfoOf(t, 100)) // as well
		place.GiveBack()
		synctest.Wait()
		want := []string{narinfoOf(t, 0).String(), narinfoOf(t, 99).String(), narinfoOf(t, 1).String(), narinfoOf(t, 100).String()}
		if len(asked) != 101 || !slices.Equal(asked[:4], want) {
			t.Errorf("%d requests, the first of them %q, want %q", len(asked), asked[:4], want)
		}
	})
}

// TestSentFlightGoesOn: what it costs has been spent.
func TestSentFlightGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _ := limitedBench(t, "", 4)
		info, _, pkg := b.put("a", 1)
		gate := b.origin.Hold("open", "")
		b.leaving(info, time.Second, func(error) {})
		<-time.After(2 * time.Second)
		if got := b.flights(); got != 1 {
			t.Errorf("%d flights, want the one that was sent", got)
		}
		gate.Release()
		synctest.Wait()
		b.wantGet(info, pkg.Text(), Memory)
		b.wantOps("open", 1)
	})
}

// TestFillsThatNobodyReads: there are only so many.
func TestFillsThatNobodyReads(t *testing.T) {
	b := newBench(t)
	gate := b.origin.HoldBody("", 100)
	var paths []nix.CachePath
	for i := range maxUnread + 10 {
		_, p, _ := b.put(fmt.Sprint("unread-", i), 1000)
		o, err := b.files.Open(t.Context(), p, Wanted{})
		if err != nil {
			t.Fatal(err)
		}
		o.Close()
		paths = append(paths, p)
	}
	b.until("no more than so many fills go on", func() bool { return b.flights() == maxUnread })
	o, err := b.files.Open(t.Context(), paths[0], Wanted{}) // one that goes on is read again
	if err != nil {
		t.Fatal(err)
	}
	if got := b.cache.unread.Load(); got != maxUnread-1 {
		t.Errorf("%d fills are not read, want one less than before", got)
	}
	o.Close()
	gate.Release()
	b.settle()
	if got := b.cache.unread.Load(); got != 0 {
		t.Errorf("%d fills are not read after all have ended", got)
	}
}

// TestFlightsAtRandom: readers come and go, the origin fails and is slow, files
// are forgotten. Who stays gets the file or the origin's error, and in the end
// nothing is left.
func TestFlightsAtRandom(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		m := newFlightModel(t, dir)
		var readers sync.WaitGroup
		for i := range 1000 {
			readers.Go(func() { m.read(rand.New(rand.NewPCG(7, uint64(i)))) })
		}
		for i := range 500 {
			readers.Go(func() {
				<-time.After(time.Duration(i) * 4 * time.Millisecond)
				m.files.Forget(m.paths[i%len(m.paths)])
			})
		}
		readers.Wait()
		<-time.After(time.Minute)
		synctest.Wait()
		if flights := m.flights(); flights != 0 || m.budget.Waiting() != 0 || m.cache.unread.Load() != 0 {
			t.Errorf("in the end there are %d flights, %d requests that wait, %d fills that nobody reads",
				flights, m.budget.Waiting(), m.cache.unread.Load())
		}
		m.origin.OnOpen(nil)
		for i, p := range m.paths { // every place has been given back
			if got, _, err := m.get(p); err != nil || !bytes.Equal(got, m.want[i]) {
				t.Errorf("%s in the end: %d bytes, %v", p, len(got), err)
			}
		}
		t.Logf("%d requests to the origin; readers got %v", m.origin.Ops("open"), m.mu.got)
	})
}

type flightModel struct {
	*bench
	budget *limit.Budget
	paths  []nix.CachePath
	want   [][]byte
	mu     struct {
		sync.Mutex
		got map[string]int
	}
}

func newFlightModel(t *testing.T, dir string) *flightModel {
	m := &flightModel{}
	m.bench, m.budget = limitedBench(t, dir, 3)
	m.mu.got = make(map[string]int)
	for i := range 8 {
		var pkg nixtest.Package
		info, nar, pkg := m.put(fmt.Sprint("model-", i), 1000+i*testPart/3)
		m.paths, m.want = append(m.paths, info, nar), append(m.want, pkg.Text(), pkg.File)
	}
	m.origin.OnOpen(func(path string, opts origin.OpenOptions) error {
		<-time.After(time.Duration(rand.N(100)) * time.Millisecond)
		if rand.N(10) == 0 {
			return origintest.Unavailable("open", path)
		}
		return nil
	})
	return m
}

// read is one reader: of some file, at some time, for as long as it likes.
func (m *flightModel) read(random *rand.Rand) {
	<-time.After(time.Duration(random.IntN(2000)) * time.Millisecond)
	client := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(random.IntN(4))}), 32)
	ctx := origin.WithAsker(m.Context(), origin.Asker{Client: client})
	if random.IntN(2) == 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(random.IntN(200))*time.Millisecond)
		defer cancel()
	}
	i := random.IntN(len(m.paths))
	got, err := m.readAll(ctx, m.paths[i])
	m.check(ctx, i, got, err)
}

func (m *flightModel) readAll(ctx context.Context, p nix.CachePath) ([]byte, error) {
	o, err := m.files.Open(ctx, p, Wanted{})
	if err != nil {
		return nil, err
	}
	defer o.Close()
	return io.ReadAll(o.Body)
}

func (m *flightModel) check(ctx context.Context, i int, got []byte, err error) {
	outcome := "file"
	var busy *origin.BusyError
	switch {
	case err == nil && bytes.Equal(got, m.want[i]):
	case err != nil && ctx.Err() != nil:
		outcome = "left"
	case errors.As(err, &busy):
		outcome = "busy"
	case errors.Is(err, origintest.ErrInjected):
		outcome = "failure"
	default:
		m.Errorf("%s: %d bytes, %v", m.paths[i], len(got), err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mu.got[outcome]++
}
