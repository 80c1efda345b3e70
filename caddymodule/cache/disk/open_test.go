package disk

import (
	"errors"
	"fmt"
	"testing"

	"golang.org/x/sys/unix"
)

// hold opens a key's file, as a slow reader does, and closes it with the test.
func hold(t *testing.T, tier *Tier, key string) *Handle {
	t.Helper()
	f, _, err := tier.Open(key, noCheck)
	if err != nil {
		t.Fatalf("open %s: %v", key, err)
	}
	return f
}

func wantReserved(t *testing.T, tier *Tier, want int64) {
	t.Helper()
	if got := tier.Counters().Bytes; got != want {
		t.Errorf("%d bytes are reserved, want %d", got, want)
	}
}

// TestOpenFilesAreNotEvicted: their space would not become free.
func TestOpenFilesAreNotEvicted(t *testing.T) {
	limit := int64(baseCost + headroom + 4*costOf(mib))
	tier := openTier(t, t.TempDir(), limit)
	var open []*Handle
	for i := range 3 {
		mustStore(t, tier, fmt.Sprint("open", i), mib)
		open = append(open, hold(t, tier, fmt.Sprint("open", i)))
	}
	for i := range 20 {
		mustStore(t, tier, fmt.Sprint("new", i), mib)
	}
	for i := range open {
		wantContent(t, tier, fmt.Sprint("open", i), mib)
	}
	mustStore(t, tier, "fourth", 10)
	open = append(open, hold(t, tier, "fourth"))
	if err := store(tier, "none", mib); !errors.Is(err, ErrNoRoom) {
		t.Errorf("stored beside open files only: %v, want ErrNoRoom", err)
	}
	for _, f := range open {
		f.Close()
	}
	mustStore(t, tier, "again", mib)
	wantNothingLeaked(t, tier)
}

// TestRemovedFilesCountWhileTheyAreOpen: df says so.
func TestRemovedFilesCountWhileTheyAreOpen(t *testing.T) {
	tier := openTier(t, t.TempDir(), roomy)
	mustStore(t, tier, "key", mib)
	before := tier.Counters().Bytes
	first, second := hold(t, tier, "key"), hold(t, tier, "key")
	tier.Remove("key")
	wantReserved(t, tier, before)
	mustStore(t, tier, "key", 10) // another file under that key
	first.Close()
	wantReserved(t, tier, before+costOf(10))
	second.Close()
	wantReserved(t, tier, before+costOf(10)-costOf(mib))
	wantNothingLeaked(t, tier)
}

// TestFilesBeingWrittenCountWhileTheyAreOpen: readers follow a fill after its end.
func TestFilesBeingWrittenCountWhileTheyAreOpen(t *testing.T) {
	for name, end := range map[string]func(*File) error{
		"aborted":   func(f *File) error { return f.Abort() },
		"refused":   func(f *File) error { return f.Commit("", no) },
		"committed": func(f *File) error { return errors.Join(f.Commit("", yes), f.tier.Remove("key")) },
	} {
		t.Run(name, func(t *testing.T) {
			tier := openTier(t, t.TempDir(), roomy)
			f, err := tier.Create("key", mib)
			if err != nil {
				t.Fatal(err)
			}
			if err := end(f); err != nil {
				t.Fatal(err)
			}
			if got := tier.Counters().Bytes; got < baseCost+costOf(mib) {
				t.Errorf("%d bytes are reserved while the file is open", got)
			}
			if err := errors.Join(f.Close(), f.Abort()); err != nil {
				t.Fatal(err)
			}
			f.Close()
			wantNothingLeaked(t, tier)
		})
	}
}

// TestACommittedFileIsEvictedOnceItsWriterHasClosedIt, not before.
func TestACommittedFileIsEvictedOnceItsWriterHasClosedIt(t *testing.T) {
	tier := openTier(t, t.TempDir(), int64(baseCost+headroom+2*costOf(mib)))
	f, err := tier.Create("followed", mib)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Commit("", yes); err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		mustStore(t, tier, fmt.Sprint("new", i), mib)
	}
	if _, there := tier.Stat("followed"); !there {
		t.Error("the file has been evicted while it was open")
	}
	f.Close()
	for i := range 5 {
		mustStore(t, tier, fmt.Sprint("newer", i), mib)
	}
	wantAbsent(t, tier, "followed")
}

// TestASmallerLimitWaitsForReaders, and is kept as soon as they leave.
func TestASmallerLimitWaitsForReaders(t *testing.T) {
	tier := openTier(t, t.TempDir(), roomy)
	mustStore(t, tier, "key", mib)
	f := hold(t, tier, "key")
	tier.SetLimits(Limits{Bytes: baseCost})
	wantContent(t, tier, "key", mib)
	f.Close()
	wantAbsent(t, tier, "key")
	wantNothingLeaked(t, tier)
}

// TestOfferedFilesPushOutNoneThatWereAskedFor.
func TestOfferedFilesPushOutNoneThatWereAskedFor(t *testing.T) {
	tier := openTier(t, t.TempDir(), int64(baseCost+5*headroom+8*costOf(mib)))
	for i := range 4 {
		mustStore(t, tier, fmt.Sprint("once", i), mib)
		mustStore(t, tier, fmt.Sprint("again", i), mib)
		wantContent(t, tier, fmt.Sprint("again", i), mib)
	}
	for i := range 4 {
		f, err := tier.Offer(fmt.Sprint("offered", i), mib)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		defer f.Abort()
	}
	if f, err := tier.Offer("one too many", mib); !errors.Is(err, ErrNoRoom) {
		t.Errorf("Offer: %v, %v, want ErrNoRoom", f, err)
	}
	for i := range 4 {
		wantAbsent(t, tier, fmt.Sprint("once", i))
		wantContent(t, tier, fmt.Sprint("again", i), mib)
	}
	mustStore(t, tier, "asked for", mib) // takes what it needs
}

// TestOfferedFilesLeaveRoom: those being written take up half of the limit, and
// what they were offered for the rest.
func TestOfferedFilesLeaveRoom(t *testing.T) {
	tier := openTier(t, t.TempDir(), 20*mib)
	for range 2 {
		var files []*File
		for {
			f, err := tier.Offer("key", mib)
			if err != nil {
				break
			}
			files = append(files, f)
		}
		release, err := tier.Reserve(8 * mib)
		if err != nil || len(files) != 9 {
			t.Errorf("%d files are offered, Reserve: %v", len(files), err)
		}
		if release != nil {
			release()
		}
		for i, f := range files {
			if i%2 == 0 {
				f.Commit("", no)
			}
			f.Abort()
			f.Close()
		}
	}
	wantNothingLeaked(t, tier)
}

// TestReserve: what lies beside the tier's files is part of its budget.
func TestReserve(t *testing.T) {
	tier := openTier(t, t.TempDir(), int64(baseCost+headroom+4*costOf(mib)))
	for i := range 4 {
		mustStore(t, tier, fmt.Sprint("once", i), mib)
	}
	before := tier.Counters().Bytes
	release, err := tier.Reserve(2 * mib)
	if err != nil {
		t.Fatal(err)
	}
	if n := tier.Counters().Entries; n > 2 {
		t.Errorf("%d entries are left beside what is reserved", n)
	}
	if _, err := tier.Reserve(3 * mib); !errors.Is(err, ErrNoRoom) {
		t.Errorf("Reserve: %v, want ErrNoRoom", err)
	}
	release()
	if after := tier.Counters().Bytes; after >= before {
		t.Errorf("%d bytes are reserved, %d before", after, before)
	}
	wantNothingLeaked(t, tier)
}

// TestReserveKeepsFree: none of the file system's free space that is to be kept.
func TestReserveKeepsFree(t *testing.T) {
	dir := t.TempDir()
	tier := openTier(t, dir, roomy)
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	tier.SetLimits(Limits{Bytes: roomy, MinFree: int64(st.Bavail)*int64(st.Bsize) + 1<<40})
	if _, err := tier.Reserve(1); !errors.Is(err, ErrNoRoom) {
		t.Errorf("Reserve: %v, want ErrNoRoom", err)
	}
}

// TestFullFileSystem: inodes or a quota run out although there is space.
func TestFullFileSystem(t *testing.T) {
	for _, full := range []error{unix.ENOSPC, unix.EDQUOT} {
		tier := openTier(t, t.TempDir(), roomy)
		for i := range 20 {
			mustStore(t, tier, fmt.Sprint("small", i), 10)
		}
		mustStore(t, tier, "large", mib)
		tries := 0
		short := func() error {
			if tries++; tries < 3 {
				return full
			}
			return nil
		}
		if err := tier.evictingFiles(asked, short); err != nil {
			t.Errorf("after %d tries: %v", tries, err)
		}
		wantContent(t, tier, "large", mib) // it is files that were short
		if n := tier.Counters().Entries; n != 18 {
			t.Errorf("%d files are left, want 3 of 21 gone", n)
		}
		tries = 2
		if err := tier.evictingBytes(mib/2, asked, func() error { tries--; return [...]error{nil, full, full}[tries+1] }); err != nil {
			t.Error(err)
		}
		wantAbsent(t, tier, "large")
		for range 100 {
			if err := tier.evictingFiles(asked, func() error { return full }); !errors.Is(err, full) {
				t.Errorf("%v, want that the file system is full", err)
			}
		}
		wantNothingLeaked(t, tier)
	}
}
