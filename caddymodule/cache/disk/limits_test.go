package disk

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

const roomy = MinBytes + 16*mib

func TestSetLimitsEvicts(t *testing.T) {
	dir := t.TempDir()
	tier := openTier(t, dir, roomy)
	for i := range 12 {
		mustStore(t, tier, fmt.Sprint("key", i), mib)
	}
	limit := int64(baseCost + 4*costOf(mib))
	tier.SetLimits(Limits{Bytes: limit})
	if c := tier.Counters(); c.Entries != 4 || c.Evictions != 8 || c.Bytes > limit || c.Limit != limit {
		t.Errorf("Counters = %+v, want 4 entries below the limit of %d", c, limit)
	}
	wantWithin(t, dir, limit)
	wantContent(t, tier, "key11", mib)
}

func TestASmallerLimitHoldsAfterARestart(t *testing.T) {
	dir := t.TempDir()
	tier := openLogged(t, dir, roomy, quiet())
	for i := range 12 {
		mustStore(t, tier, fmt.Sprint("key", i), mib)
	}
	tier.Close()
	openTier(t, dir, MinBytes)
	wantWithin(t, dir, MinBytes)
}

// TestLimitHoldsWhileNamesAreRead: what the scan has not seen yet takes up room
// all the same.
func TestLimitHoldsWhileNamesAreRead(t *testing.T) {
	dir := t.TempDir()
	tier := openLogged(t, dir, roomy, quiet())
	for i := 0; tier.Counters().Evictions == 0; i++ {
		mustStore(t, tier, fmt.Sprint("old", i), 256<<10)
	}
	tier.Close()
	for range 5 {
		tier, err := Open(dir, Limits{Bytes: roomy}, quiet())
		if err != nil {
			t.Fatal(err)
		}
		f, err := tier.Create("new", 8*mib)
		if err != nil {
			t.Fatal(err)
		}
		wantWithin(t, dir, roomy)
		if err := errors.Join(f.Abort(), f.Close(), tier.Close()); err != nil {
			t.Fatal(err)
		}
	}
}

func TestNoRoom(t *testing.T) {
	const limit = MinBytes + mib
	huge := uint64(1) << 62
	for _, test := range []struct {
		name   string
		limits Limits
		size   int64
	}{
		{"larger than the limit", Limits{Bytes: limit}, limit},
		{"the directories leave too little", Limits{Bytes: limit}, limit - baseCost},
		{"larger than any file", Limits{Bytes: limit}, 1<<63 - 1},
		{"negative", Limits{Bytes: limit}, -1},
		{"minimum free space", Limits{Bytes: limit, MinFree: int64(huge)}, 1},
		{"both", Limits{Bytes: limit, MinFree: int64(huge)}, limit},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			tier := openTier(t, dir, limit)
			mustStore(t, tier, "there", 1000)
			tier.SetLimits(test.limits)
			if f, err := tier.Create("key", test.size); !errors.Is(err, ErrNoRoom) {
				t.Errorf("Create: %v, %v; want ErrNoRoom", f, err)
			}
			wantContent(t, tier, "there", 1000)
			wantNothingLeaked(t, tier)
		})
	}
}

// TestNothingMakesWayInVain: a file that can't fit beside those being written
// does not cost what is stored.
func TestNothingMakesWayInVain(t *testing.T) {
	limit := int64(baseCost + 2*headroom + 4*costOf(mib))
	tier := openTier(t, t.TempDir(), limit)
	mustStore(t, tier, "there", 1000)
	f, err := tier.Create("being written", 2*mib)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := tier.Create("too large", 3*mib); !errors.Is(err, ErrNoRoom) {
		t.Errorf("Create: %v, want ErrNoRoom", err)
	}
	wantContent(t, tier, "there", 1000)
	if err := errors.Join(f.Abort(), f.Close()); err != nil {
		t.Fatal(err)
	}
	wantNothingLeaked(t, tier)
}

func TestMinFreeEvicts(t *testing.T) {
	dir := t.TempDir()
	tier := openTier(t, dir, roomy)
	for i := range 15 {
		mustStore(t, tier, fmt.Sprint("key", i), mib)
	}
	// More than there is, by less than what can be evicted. Others use this file
	// system too: hence the wide margins.
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	tier.SetLimits(Limits{Bytes: roomy, MinFree: int64(st.Bavail)*int64(st.Bsize) + 8*mib})
	f, err := tier.Create("new", mib)
	if err == nil {
		f.Abort()
		f.Close()
	}
	if evicted := tier.Counters().Evictions; (err == nil) != (evicted > 0) {
		t.Errorf("Create: %v, with %d files evicted for it", err, evicted)
	}
	wantNothingLeaked(t, tier)
}

// TestLimitCountsDirectories: a directory grows with its files, and does not
// shrink when they go.
func TestLimitCountsDirectories(t *testing.T) {
	dir := t.TempDir()
	const limit = MinBytes
	tier := openLogged(t, dir, limit, quiet())
	for i := range shardCount {
		if err := os.MkdirAll(tier.shard(i), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, key := range keysOf(7, 500, strings.Repeat("x", 200)) {
		mustStore(t, tier, key, 1)
	}
	wantWithin(t, dir, limit)
	for i := range 300 {
		mustStore(t, tier, fmt.Sprint("large", i), 16<<10)
	}
	wantWithin(t, dir, limit)
	wantNothingLeaked(t, tier)
	tier.Close()
	again := openTier(t, dir, limit)
	wantWithin(t, dir, limit)
	if got := again.dirs(); got < tier.dirs() {
		t.Errorf("directories count for %d bytes after a restart, %d before", got, tier.dirs())
	}
}

// TestLimitCountsBlockMaps: a file in many pieces takes up more than its bytes.
func TestLimitCountsBlockMaps(t *testing.T) {
	const n, size, piece = 4, 2 * mib, 32 << 10
	dir := t.TempDir()
	limit := int64(baseCost + n*costOf(size) + headroom)
	tier := openTier(t, dir, limit)
	for i := range n {
		f, err := tier.Create(fmt.Sprint("key", i), size)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		for at := int64(0); at < size; at += 2 * piece {
			if _, err := f.WriteAt(make([]byte, piece), at); err != nil {
				t.Fatal(err)
			}
		}
		if err := f.Sync(); err != nil {
			t.Fatal(err)
		}
		var st unix.Stat_t
		if err := unix.Fstat(int(f.Fd()), &st); err != nil {
			t.Fatal(err)
		}
		if used := st.Blocks * 512; used > costOf(size) {
			t.Errorf("a file of %d bytes takes up %d, more than the %d it is counted as", size, used, costOf(size))
		}
		if err := f.Commit("", yes); err != nil {
			t.Fatal(err)
		}
	}
	wantWithin(t, dir, limit)
}
