package disk

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// hang has an operation on the tier's disk hang until it is released.
func hang(tier *Tier) (release func()) {
	thaw := make(chan struct{})
	tier.do(func() error { <-thaw; return nil })
	return func() { close(thaw) }
}

// TestAStalledDisk holds nobody up, and what was to be deleted meanwhile is deleted
// when it answers.
func TestAStalledDisk(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		log, to := newLog()
		tier := openLogged(t, dir, roomy, to)
		defer tier.Close()
		for _, key := range []string{"key", "open", "removed", "evicted"} {
			mustStore(t, tier, key, mib)
		}
		open, removed := hold(t, tier, "open"), hold(t, tier, "removed")
		f, err := tier.Create("new", mib)
		if err != nil {
			t.Fatal(err)
		}
		tier.Remove("removed")
		begun := time.Now()
		release := hang(tier)
		if took := time.Since(begun); took != patience || !tier.Stalled() {
			t.Errorf("an operation that hangs held its caller for %v; stalled: %v", took, tier.Stalled())
		}
		for what, do := range map[string]func() error{
			"Open":    func() error { _, _, err := tier.Open("key", noCheck); return err },
			"Create":  func() error { _, err := tier.Create("other", 10); return err },
			"Offer":   func() error { _, err := tier.Offer("other", 10); return err },
			"Reserve": func() error { _, err := tier.Reserve(10); return err },
			"WriteAt": func() error { _, err := f.WriteAt([]byte("x"), 0); return err },
			"Resize":  func() error { return f.Resize(2 * mib) },
			"Commit":  func() error { return f.Commit("", yes) },
		} {
			if err := do(); !errors.Is(err, ErrStalled) {
				t.Errorf("%s: %v, want ErrStalled", what, err)
			}
		}
		if err := errors.Join(tier.Remove("key"), f.Abort()); err != nil {
			t.Error(err)
		}
		f.Close()
		open.Close()
		removed.Close()
		tier.SetLimits(Limits{Bytes: baseCost + costOf(mib)})
		if took := time.Since(begun); took != patience {
			t.Errorf("all of that took %v", took)
		}
		release()
		synctest.Wait()
		wantAbsent(t, tier, "key")
		if left := files(t, dir); len(left) != 1 {
			t.Errorf("files: %v", left)
		}
		mustStore(t, tier, "new", 10)
		wantContent(t, tier, "new", 10)
		if n := strings.Count(log.String(), "level="); n != 2 {
			t.Errorf("logged %d lines, want one each way: %s", n, log.String())
		}
	})
}

// TestADiskThatStallsUnderTheScan holds no look-up for long. What it has is found
// when it answers, but for what was removed meanwhile.
func TestADiskThatStallsUnderTheScan(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		before := openLogged(t, dir, roomy, quiet())
		mustStore(t, before, "key", mib)
		mustStore(t, before, "removed", mib)
		before.Close()

		tier := newTier(dir, Limits{Bytes: roomy}, quiet())
		if err := tier.take(); err != nil {
			t.Fatal(err)
		}
		release := hang(tier)
		go tier.scan()
		begun := time.Now()
		if _, _, err := tier.Open("key", noCheck); !errors.Is(err, ErrStalled) {
			t.Errorf("Open: %v, want ErrStalled", err)
		}
		if _, ok := tier.Stat("key"); ok {
			t.Error("Stat found it")
		}
		if err := tier.Remove("removed"); err != nil {
			t.Error(err)
		}
		if held := time.Since(begun); held != 0 {
			t.Errorf("held for %v", held)
		}
		release()
		<-tier.Scanned()
		wantContent(t, tier, "key", mib)
		wantAbsent(t, tier, "removed")
		tier.Close()
		wantNothingLeaked(t, tier)
		if left := files(t, dir); len(left) != 1 {
			t.Errorf("files: %v", left)
		}
	})
}

// TestCloseWhileTheDiskStallsUnderTheScan does not wait for it.
func TestCloseWhileTheDiskStallsUnderTheScan(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		tier := newTier(dir, Limits{Bytes: roomy}, quiet())
		if err := tier.take(); err != nil {
			t.Fatal(err)
		}
		release := hang(tier)
		go tier.scan()
		synctest.Wait()
		begun := time.Now()
		if err := tier.Close(); !errors.Is(err, ErrStalled) {
			t.Errorf("Close: %v, want ErrStalled", err)
		}
		if held := time.Since(begun); held != 0 {
			t.Errorf("held for %v", held)
		}
		if err := tier.Remove("key"); !errors.Is(err, fs.ErrClosed) {
			t.Errorf("Remove: %v, want fs.ErrClosed", err)
		}
		release()
	})
}

// TestABusyDiskIsNotStalled: while it takes long to bring many files' bytes to the
// disk, hits and fills don't wait for that, and all of the files are stored.
func TestABusyDiskIsNotStalled(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		tier := openLogged(t, dir, roomy, quiet())
		defer tier.Close()
		mustStore(t, tier, "hit", mib)
		var busy sync.WaitGroup
		for range 125 {
			busy.Go(func() {
				err := tier.sync(func() error { time.Sleep(longPatience / 2); return nil })
				if err != nil {
					t.Errorf("bring bytes to a busy disk: %v", err)
				}
			})
		}
		defer busy.Wait()
		synctest.Wait()
		begun := time.Now()
		wantContent(t, tier, "hit", mib)
		f, err := tier.Create("new", 10)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt(content("new", 10), 0); err != nil {
			t.Error(err)
		}
		if held := time.Since(begun); held != 0 {
			t.Errorf("a busy disk held a hit and a fill for %v", held)
		}
		if err := f.Commit("", yes); err != nil {
			t.Error(err)
		}
		f.Close()
		wantContent(t, tier, "new", 10)
		if tier.Stalled() {
			t.Error("it is taken for a stalled one")
		}
	})
}

// TestWaitingForABusyDiskThatStalls ends when it does.
func TestWaitingForABusyDiskThatStalls(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		tier := openLogged(t, dir, roomy, quiet())
		f, err := tier.Create("key", 10)
		if err != nil {
			t.Fatal(err)
		}
		thaw, results := make(chan struct{}), make(chan error)
		for range maxLong {
			go func() { results <- tier.sync(func() error { <-thaw; return nil }) }()
		}
		synctest.Wait()
		begun := time.Now()
		go func() { results <- f.Commit("", yes) }()
		for range maxLong + 1 {
			if err := <-results; !errors.Is(err, ErrStalled) {
				t.Errorf("%v, want ErrStalled", err)
			}
		}
		if held := time.Since(begun); held != longPatience {
			t.Errorf("held for %v", held)
		}
		close(thaw)
		synctest.Wait()
		f.Close()
		mustStore(t, tier, "key", 10)
		tier.Close()
		wantNothingLeaked(t, tier)
	})
}

// TestADiskThatStallsUnderACheck says nothing of the file.
func TestADiskThatStallsUnderACheck(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		tier := openLogged(t, dir, roomy, quiet())
		mustStore(t, tier, "key", mib)
		tier.index.checked("key", tier.index.mu.entries["key"].name, 1) // so it is to be checked
		var release func()
		_, _, err := tier.Open("key", func(r io.ReaderAt) error {
			release = hang(tier)
			_, err := r.ReadAt(make([]byte, 10), 0)
			return err
		})
		if !errors.Is(err, ErrStalled) {
			t.Errorf("Open: %v, want ErrStalled", err)
		}
		release()
		synctest.Wait()
		wantContent(t, tier, "key", mib)
		tier.Close()
	})
}

// TestWhatSucceedsTooLate leaves nothing behind.
func TestWhatSucceedsTooLate(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		tier := openTier(t, dir, roomy)
		thaw := make(chan struct{})
		_, err := tier.openFile(func() (*os.File, error) {
			<-thaw
			return createIn(tier.staging())
		}, discard)
		if !errors.Is(err, ErrStalled) {
			t.Errorf("%v, want ErrStalled", err)
		}
		close(thaw)
		synctest.Wait()
		if left := files(t, dir); len(left) != 0 {
			t.Errorf("files: %v", left)
		}
		wantNothingLeaked(t, tier)
	})
}

// TestAFileDeletedTwice gives its space back once, open or not.
func TestAFileDeletedTwice(t *testing.T) {
	tier := openTier(t, t.TempDir(), roomy)
	mustStore(t, tier, "open", mib)
	mustStore(t, tier, "key", mib)
	open := hold(t, tier, "open")
	for _, key := range []string{"open", "key"} {
		e, _ := tier.index.take(key)
		for range 2 {
			if err := tier.unlink(e); err != nil {
				t.Error(err)
			}
		}
	}
	open.Close()
	wantNothingLeaked(t, tier)
}
