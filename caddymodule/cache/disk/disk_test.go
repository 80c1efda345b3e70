package disk

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

const roomy = MinBytes + 16*mib

func TestStoredFilesSurviveARestart(t *testing.T) {
	dir := t.TempDir()
	tier := openLogged(t, dir, roomy, quiet())
	sizes := []int{0, 1, blockSize - 1, blockSize, blockSize + 1, mib + 3}
	for i, size := range sizes {
		mustStore(t, tier, fmt.Sprint("key", i), size)
	}
	before := tier.Counters()
	if err := tier.Close(); err != nil {
		t.Fatal(err)
	}
	tier = openTier(t, dir, roomy)
	for i, size := range sizes {
		wantContent(t, tier, fmt.Sprint("key", i), size)
	}
	if after := tier.Counters(); after != before {
		t.Errorf("Counters = %+v after the restart, %+v before", after, before)
	}
	wantNothingLeaked(t, tier)
}

func TestTagSurvivesARestart(t *testing.T) {
	dir := t.TempDir()
	tier := openLogged(t, dir, roomy, quiet())
	f, err := tier.Create("key", 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Commit("tag1", yes), f.Close(), tier.Close()); err != nil {
		t.Fatal(err)
	}
	tier = openTier(t, dir, roomy)
	if meta, ok := tier.Stat("key"); !ok || meta != (Meta{1, "tag1"}) {
		t.Errorf("Stat = %+v, %v", meta, ok)
	}
}

// TestSerialsRiseOverRestarts: or else a file could take the name of another
// that is still to be deleted.
func TestSerialsRiseOverRestarts(t *testing.T) {
	dir := t.TempDir()
	tier := openLogged(t, dir, roomy, quiet())
	for i := range 40 {
		mustStore(t, tier, fmt.Sprint("key", i), 1)
	}
	last := tier.serial.Load()
	tier.Close()
	if again := openTier(t, dir, roomy); again.serial.Load() != last {
		t.Errorf("the last serial was %d, and is %d after a restart", last, again.serial.Load())
	}
}

func TestOpenEmptiesStaging(t *testing.T) {
	dir := t.TempDir()
	tier := openLogged(t, dir, roomy, quiet())
	f, err := tier.Create("key", 100)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	tier.Close()
	tier = openTier(t, dir, roomy)
	if left := files(t, dir); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	wantAbsent(t, tier, "key")
	wantNothingLeaked(t, tier)
}

func TestInUse(t *testing.T) {
	dir := t.TempDir()
	tier := openLogged(t, dir, roomy, quiet())
	if _, err := Open(dir, Limits{Bytes: roomy}, quiet()); !errors.Is(err, ErrInUse) {
		t.Errorf("a second Open: %v, want ErrInUse", err)
	}
	if err := tier.Close(); err != nil {
		t.Fatal(err)
	}
	openTier(t, dir, roomy)
}

func TestNothingShowsBeforeCommit(t *testing.T) {
	tier := openTier(t, t.TempDir(), roomy)
	f, err := tier.Create("key", 5)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write([]byte("whole")); err != nil {
		t.Fatal(err)
	}
	wantAbsent(t, tier, "key")
	if err := f.Commit("", yes); err != nil {
		t.Fatal(err)
	}
	if err := f.Abort(); err != nil {
		t.Errorf("Abort after Commit: %v", err)
	}
	if _, ok := tier.Stat("key"); !ok {
		t.Error("gone after Abort")
	}
	wantNothingLeaked(t, tier)
}

func TestWhatIsNotCommittedLeavesNothing(t *testing.T) {
	closed := func(f *File) error {
		f.Close()
		return f.Commit("", yes)
	}
	longer := func(f *File) error {
		f.Write(make([]byte, 200))
		return f.Commit("", yes)
	}
	for _, test := range []struct {
		name  string
		end   func(f *File) error
		fails bool
	}{
		{"aborted", func(f *File) error { return f.Abort() }, false},
		{"aborted twice", func(f *File) error { return errors.Join(f.Abort(), f.Abort()) }, false},
		{"committed after abort", func(f *File) error { return errors.Join(f.Abort(), f.Commit("", yes)) }, false},
		{"refused by admit", func(f *File) error { return f.Commit("", no) }, false},
		{"closed too early", closed, true},
		{"longer than announced", longer, true},
		{"a name too long for a file", func(f *File) error { return f.Commit(strings.Repeat("x", 255), yes) }, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			tier := openTier(t, dir, roomy)
			f, err := tier.Create("key", 100)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if err := test.end(f); (err != nil) != test.fails {
				t.Errorf("error: %v", err)
			}
			wantAbsent(t, tier, "key")
			if left := files(t, dir); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
			wantNothingLeaked(t, tier)
		})
	}
}

func TestTheFirstFileOfAKeyStays(t *testing.T) {
	dir := t.TempDir()
	tier := openTier(t, dir, roomy)
	f, err := tier.Create("key", 3)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	mustStore(t, tier, "key", 10)
	if err := f.Commit("", yes); err != nil {
		t.Errorf("Commit of the second: %v", err)
	}
	wantContent(t, tier, "key", 10)
	if left := files(t, dir); len(left) != 1 {
		t.Errorf("files: %v", left)
	}
	wantNothingLeaked(t, tier)
}

func TestRemove(t *testing.T) {
	dir := t.TempDir()
	tier := openTier(t, dir, roomy)
	mustStore(t, tier, "key", 10)
	if err := errors.Join(tier.Remove("key"), tier.Remove("key")); err != nil {
		t.Error(err)
	}
	wantAbsent(t, tier, "key")
	if left := files(t, dir); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	wantNothingLeaked(t, tier)
}

func TestReadersOfAnEvictedFileGoOn(t *testing.T) {
	tier := openTier(t, t.TempDir(), roomy)
	mustStore(t, tier, "key", mib)
	f, _, err := tier.Open("key", noCheck)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	tier.SetLimits(Limits{Bytes: baseCost})
	wantAbsent(t, tier, "key")
	if got, err := io.ReadAll(f); err != nil || string(got) != string(content("key", mib)) {
		t.Errorf("read %d bytes, %v", len(got), err)
	}
}

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

func TestOpenWhileNamesAreRead(t *testing.T) {
	dir := t.TempDir()
	tier := openLogged(t, dir, roomy, quiet())
	const n = 400
	for i := range n {
		mustStore(t, tier, fmt.Sprint("key", i), 10)
	}
	tier.Close()
	for range 5 {
		tier, err := Open(dir, Limits{Bytes: roomy}, quiet())
		if err != nil {
			t.Fatal(err)
		}
		for i := n - 1; i >= 0; i-- {
			wantContent(t, tier, fmt.Sprint("key", i), 10)
		}
		if err := tier.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestCreateOfAClosedTier(t *testing.T) {
	dir := t.TempDir()
	tier, err := Open(dir, Limits{Bytes: roomy}, quiet())
	if err != nil {
		t.Fatal(err)
	}
	if err := tier.Close(); err != nil { // perhaps before the names are read
		t.Fatal(err)
	}
	if _, err := tier.Create("key", 1); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("Create: %v, want fs.ErrClosed", err)
	}
	if left := files(t, dir); len(left) > 0 {
		t.Errorf("left: %v", left)
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
	if err := f.Abort(); err != nil {
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

func TestDeletedDirectory(t *testing.T) {
	for _, what := range []string{"", "objects", "staging"} {
		t.Run("deleted: "+what, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "tier")
			tier := openTier(t, dir, roomy)
			mustStore(t, tier, "key", 10)
			if err := os.RemoveAll(filepath.Join(dir, what)); err != nil {
				t.Fatal(err)
			}
			if what != "staging" {
				wantAbsent(t, tier, "key")
			}
			mustStore(t, tier, "new", 20)
			wantContent(t, tier, "new", 20)
			wantNothingLeaked(t, tier)
		})
	}
}

func TestAChangedFileIsDropped(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(path string) error
	}{
		{"truncated", func(path string) error { return os.Truncate(path, 99) }},
		{"longer", func(path string) error { return os.Truncate(path, 101) }},
		{"deleted", os.Remove},
		{"not a file any more", func(path string) error { return errors.Join(os.Remove(path), os.Mkdir(path, 0o700)) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			log, to := newLog()
			tier := openLogged(t, dir, roomy, to)
			defer tier.Close()
			mustStore(t, tier, "key", 100)
			if err := test.change(fileOf(t, tier, "key")); err != nil {
				t.Fatal(err)
			}
			wantAbsent(t, tier, "key")
			if !strings.Contains(log.String(), "level=WARN") {
				t.Errorf("no warning, but %q", log.String())
			}
			if left := files(t, dir); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
			wantNothingLeaked(t, tier)
			mustStore(t, tier, "key", 100)
			wantContent(t, tier, "key", 100)
		})
	}
}

// TestAnEvictedFileIsNoAlarm: a file that goes between look-up and open was not
// changed by anybody.
func TestAnEvictedFileIsNoAlarm(t *testing.T) {
	log, to := newLog()
	tier := openLogged(t, t.TempDir(), roomy, to)
	defer tier.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 300 {
			mustStore(t, tier, "key", 1)
			tier.Remove("key")
		}
	}()
	for open := true; open; {
		if f, _, err := tier.Open("key", noCheck); err == nil {
			f.Close()
		}
		select {
		case <-done:
			open = false
		default:
		}
	}
	if log.String() != "" {
		t.Errorf("logged: %s", log.String())
	}
}

func TestUnknownFilesAreLeftAlone(t *testing.T) {
	dir := t.TempDir()
	tier := openLogged(t, dir, roomy, quiet())
	key := keysOf(3, 1, "")[0]
	mustStore(t, tier, key, 10)
	tier.Close()
	unknown := []string{
		"objects/03/README",
		"objects/03/k,1,,1",                             // of another shard, or none
		"objects/03/" + key + ",+5,,1",                  // not as we spell it
		"objects/03/" + key + ",9223372036854775807,,2", // larger than any file
		"objects/other",
		"other/file",
		"file",
	}
	for _, name := range unknown {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte("x"), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	log, to := newLog()
	tier = openLogged(t, dir, roomy, to)
	defer tier.Close()
	wantContent(t, tier, key, 10)
	wantNothingLeaked(t, tier)
	left := files(t, dir)
	for _, name := range unknown {
		if !slices.Contains(left, name) {
			t.Errorf("%s is gone", name)
		}
	}
	if got := strings.Count(log.String(), "left alone"); got != 4 {
		t.Errorf("%d warnings, want one for each of the 4 in a shard: %s", got, log.String())
	}
}

func TestFilesUnderOneKeyAreAllDropped(t *testing.T) {
	for _, n := range []int{2, 3, 4} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			dir := t.TempDir()
			tier := openLogged(t, dir, roomy, quiet())
			mustStore(t, tier, "key", 10)
			mustStore(t, tier, "other", 10)
			name := fileOf(t, tier, "key")
			tier.Close()
			for i := range n - 1 {
				if err := os.WriteFile(fmt.Sprint(name, "z", i), content("key", 10), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			tier = openTier(t, dir, roomy)
			wantAbsent(t, tier, "key")
			wantContent(t, tier, "other", 10)
			if left := files(t, dir); len(left) != 1 {
				t.Errorf("left: %v", left)
			}
			wantNothingLeaked(t, tier)
		})
	}
}

// TestShortOfFileDescriptors: that says nothing of the file that can't be opened.
func TestShortOfFileDescriptors(t *testing.T) {
	tier := openTier(t, t.TempDir(), roomy)
	mustStore(t, tier, "key", 10)
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	low := old
	low.Cur = 0
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &low); err != nil {
		t.Fatal(err)
	}
	_, _, err := tier.Open("key", noCheck)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	if !errors.Is(err, unix.EMFILE) {
		t.Errorf("Open: %v, want EMFILE", err)
	}
	wantContent(t, tier, "key", 10)
}

// TestAFileThatCanNotBeDeleted: space stays reserved as long as the file is
// there.
func TestAFileThatCanNotBeDeleted(t *testing.T) {
	dir := t.TempDir()
	tier := openTier(t, dir, roomy)
	mustStore(t, tier, "key", 10)
	// A directory with something in it can't be deleted, whoever tries.
	path := fileOf(t, tier, "key")
	if err := errors.Join(os.Remove(path), os.MkdirAll(path+"/full", 0o700)); err != nil {
		t.Fatal(err)
	}
	before := tier.Counters().Bytes
	if err := tier.Remove("key"); err == nil {
		t.Error("Remove did not fail")
	}
	wantAbsent(t, tier, "key")
	if after := tier.Counters().Bytes; after != before {
		t.Errorf("%d bytes are reserved, %d before", after, before)
	}
	mustStore(t, tier, "key", 20)
	wantContent(t, tier, "key", 20)
}

func TestOpenOfNoDirectory(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Open(path, Limits{Bytes: roomy}, quiet())
	if err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("Open: %v, want an error that names the path", err)
	}
}

// TestLockEndsWithTheProcess needs a process of its own: see churnChild.
func TestLockEndsWithTheProcess(t *testing.T) {
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childDir+"="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, Limits{Bytes: roomy}, quiet()); !errors.Is(err, ErrInUse) {
		t.Errorf("Open beside another process: %v, want ErrInUse", err)
	}
	cmd.Process.Kill()
	cmd.Wait()
	openTier(t, dir, roomy)
}
