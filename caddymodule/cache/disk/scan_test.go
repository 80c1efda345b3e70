package disk

import (
	"fmt"
	"testing"
)

// evictedAfter stores n files, restarts, calls between, and returns which of them
// a limit of half their size then costs.
func evictedAfter(t *testing.T, n int, between func(*Tier, []string)) map[string]bool {
	t.Helper()
	const size = 100 << 10
	dir := t.TempDir()
	tier := openLogged(t, dir, roomy, quiet())
	keys := make([]string, n)
	for i := range keys {
		keys[i] = fmt.Sprint("key", i)
		mustStore(t, tier, keys[i], size)
	}
	tier.Close()

	tier = openTier(t, dir, roomy)
	between(tier, keys)
	tier.SetLimits(Limits{Bytes: tier.Counters().Bytes - int64(n/2)*costOf(size)})
	evicted := make(map[string]bool)
	for _, key := range keys {
		if _, there := tier.Stat(key); !there {
			evicted[key] = true
		}
	}
	return evicted
}

func TestOldFilesLeaveFirstAfterARestart(t *testing.T) {
	const n = 60
	evicted := evictedAfter(t, n, func(*Tier, []string) {})
	for i := range n {
		if key := fmt.Sprint("key", i); evicted[key] != (i < n/2) {
			t.Errorf("file %d of %d was evicted: %v, want the older half to be", i, n, evicted[key])
		}
	}
}

func TestFilesAskedForSinceARestartStay(t *testing.T) {
	const n = 60
	evicted := evictedAfter(t, n, func(tier *Tier, keys []string) {
		for _, key := range keys[:n/3] {
			wantContent(t, tier, key, 100<<10)
		}
	})
	for i := range n / 3 {
		if evicted[fmt.Sprint("key", i)] {
			t.Errorf("file %d was evicted, which was asked for, before one that was not", i)
		}
	}
}

// A file may be gone again before the scan makes it known to the policy.
func TestFilesRemovedDuringTheScan(t *testing.T) {
	const n = 300
	dir := t.TempDir()
	tier := openLogged(t, dir, roomy, quiet())
	for i := range n {
		mustStore(t, tier, fmt.Sprint("key", i), 10)
	}
	tier.Close()

	tier, err := Open(dir, Limits{Bytes: roomy}, quiet())
	if err != nil {
		t.Fatal(err)
	}
	defer tier.Close()
	for i := range n / 2 {
		if err := tier.Remove(fmt.Sprint("key", i)); err != nil {
			t.Error(err)
		}
	}
	<-tier.Scanned()
	if got := tier.Counters().Entries; got != n-n/2 {
		t.Errorf("%d entries, want %d", got, n-n/2)
	}
	tier.SetLimits(Limits{Bytes: MinBytes})
	tier.SetLimits(Limits{})
	if got := tier.Counters().Entries; got != 0 {
		t.Errorf("%d entries with no room for any", got)
	}
	wantNothingLeaked(t, tier)
}
