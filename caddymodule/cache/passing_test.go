package cache

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stevedores-org/nix-cache/caddymodule/nix"
	"github.com/stevedores-org/nix-cache/caddymodule/origin/limit"
	"github.com/stevedores-org/nix-cache/caddymodule/origin/origintest"
)

// passingBench is a cache without tiers before an origin that takes 8 requests at a
// time, 5 of them for NARs, and has a NAR of 8 MiB. waiting says how many more
// wait than do.
func passingBench(t *testing.T, waiting int) (*bench, nix.CachePath, []byte) {
	b := &bench{T: t, origin: origintest.NewMemory(), counters: new(Counters)}
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	o := limit.New(b.origin, limit.NewBudget(8), func(string) (limit.Class, bool) { return limit.Large, false })
	policy := remote
	policy.Waiting = func() int { return o.Waiting() + waiting }
	b.cache = New("", Limits{}, log)
	b.files = b.cache.Namespace(o.String(), o, policy, b.counters, log)
	t.Cleanup(b.close)
	_, p, pkg := b.put("a", 8<<20)
	return b, p, pkg.File
}

func (b *bench) open(p nix.CachePath) *Object {
	b.Helper()
	o, err := b.files.Open(b.Context(), p, Wanted{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { o.Close() })
	return o
}

// readAtPace reads all there is, step bytes at a time with a pause after each.
func readAtPace(t *testing.T, r io.Reader, step int, pause time.Duration) []byte {
	t.Helper()
	var got []byte
	buf := make([]byte, step)
	for {
		n, err := io.ReadFull(r, buf)
		got = append(got, buf[:n]...)
		if err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF) {
			return got
		}
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(pause)
	}
}

// TestPaceOfWhatIsPassedThrough: how often the origin is asked depends on how its
// client reads, and on whether others may need its place.
func TestPaceOfWhatIsPassedThrough(t *testing.T) {
	for name, tt := range map[string]struct {
		crowd int
		step  int
		pause time.Duration
		opens int
	}{
		"as fast as can be":               {1, 64 << 10, 0, 1},
		"10 MiB a second":                 {1, 1 << 20, 100 * time.Millisecond, 1},
		"1 MiB a second, alone":           {0, 1 << 20, time.Second, 1},
		"1 MiB in 40 seconds, alone":      {0, 1 << 20, 40 * time.Second, 9},
		"200 KiB a second, others wait":   {1, 40 << 10, 200 * time.Millisecond, 1 + 8},
		"1 MiB in 3 seconds, others wait": {1, 1 << 20, 3 * time.Second, 1 + 8},
		"4 MiB in 2 seconds, others wait": {1, 4 << 20, 2 * time.Second, 3},
		"2 MiB an hour, others wait":      {1, 2 << 20, time.Hour, 1 + 8},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, p, file := passingBench(t, tt.crowd)
				o := b.open(p)
				if got := readAtPace(t, o.Body, tt.step, tt.pause); !bytes.Equal(got, file) {
					t.Errorf("%d bytes, want %d", len(got), len(file))
				}
				if got := b.origin.Ops("open"); got > tt.opens {
					t.Errorf("%d operations at the origin, want %d", got, tt.opens)
				}
			})
		})
	}
}

// TestClientsThatDontReadHoldNothing: their places are free a moment after others
// have come to wait for one.
func TestClientsThatDontReadHoldNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, p, file := passingBench(t, 0)
		var stalled []*Object
		begun := time.Now()
		for range 12 {
			o := b.open(p)
			if _, err := io.ReadFull(o.Body, make([]byte, 1000)); err != nil {
				t.Fatal(err)
			}
			stalled = append(stalled, o)
		}
		if took := time.Since(begun); took > 5*time.Second {
			t.Errorf("12 clients took %v to get their first bytes by five places", took)
		}
		begun = time.Now()
		b.wantGet(p, file, Bypass)
		if took := time.Since(begun); took > 2*crowdPatience {
			t.Errorf("a client beside them waited %v", took)
		}
		for _, o := range stalled {
			if got, err := io.ReadAll(o.Body); err != nil || !bytes.Equal(got, file[1000:]) {
				t.Errorf("one that reads on gets %d bytes, %v; want %d", len(got), err, len(file)-1000)
			}
		}
	})
}

// TestPiecesAreShared: when slow clients have taken all pieces, each of them has
// its turn.
func TestPiecesAreShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, p, file := passingBench(t, 1)
		b.cache.pieces.places = make(places, 1)
		done := make(chan []byte)
		for range 3 {
			o := b.open(p)
			go func() { done <- readAtPace(t, o.Body, 256<<10, time.Second) }()
		}
		for range 3 {
			if got := <-done; !bytes.Equal(got, file) {
				t.Errorf("%d bytes, want %d", len(got), len(file))
			}
		}
		if got := len(b.cache.pieces.places); got != 0 {
			t.Errorf("%d pieces are left in use", got)
		}
	})
}
