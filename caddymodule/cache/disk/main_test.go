package disk

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// TestMain is also the child of the tests that kill one, or need another user.
func TestMain(m *testing.M) {
	var err error
	switch churn, open := os.Getenv(childDir), os.Getenv(openDir); {
	case churn != "":
		err = churnChild(churn)
	case open != "":
		_, err = Open(open, Limits{Bytes: roomy}, quiet())
	default:
		os.Exit(m.Run())
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// openDir names the directory that a child opens as a tier.
const openDir = "DISK_TEST_OPEN"

const mib = 1 << 20

func yes() bool { return true }
func no() bool  { return false }

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// openTier opens a tier, closes it when the test ends, and waits for its names.
func openTier(t testing.TB, dir string, limit int64) *Tier {
	t.Helper()
	tier := openLogged(t, dir, limit, quiet())
	t.Cleanup(func() { tier.Close() })
	return tier
}

func openLogged(t testing.TB, dir string, limit int64, log *slog.Logger) *Tier {
	t.Helper()
	tier, err := Open(dir, Limits{Bytes: limit}, log)
	if err != nil {
		t.Fatal(err)
	}
	<-tier.Scanned()
	return tier
}

// content returns what the tests store under a key.
func content(key string, size int) []byte {
	b := make([]byte, size)
	rand.NewChaCha8(sha256.Sum256([]byte(key))).Read(b)
	return b
}

// store writes the key's content and commits it.
func store(tier *Tier, key string, size int) error {
	f, err := tier.Create(key, int64(size))
	if err != nil {
		return err
	}
	defer f.Close()
	defer f.Abort()
	if _, err := f.WriteAt(content(key, size), 0); err != nil {
		return err
	}
	return f.Commit("", yes)
}

func mustStore(t testing.TB, tier *Tier, key string, size int) {
	t.Helper()
	if err := store(tier, key, size); err != nil {
		t.Fatalf("store %s: %v", key, err)
	}
}

// wantContent fails unless the key's content is there, of that size.
func wantContent(t testing.TB, tier *Tier, key string, size int) {
	t.Helper()
	f, meta, err := tier.Open(key, noCheck)
	if err != nil {
		t.Errorf("open %s: %v", key, err)
		return
	}
	defer f.Close()
	got, err := io.ReadAll(f)
	if err != nil {
		t.Errorf("read %s: %v", key, err)
	}
	if meta.Size != int64(size) || string(got) != string(content(key, size)) {
		t.Errorf("open %s: %d bytes (Meta says %d), want the %d that were stored", key, len(got), meta.Size, size)
	}
}

func wantAbsent(t testing.TB, tier *Tier, key string) {
	t.Helper()
	f, _, err := tier.Open(key, noCheck)
	if err == nil {
		f.Close()
	}
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("open %s: %v, want fs.ErrNotExist", key, err)
	}
	if _, ok := tier.Stat(key); ok {
		t.Errorf("stat %s: it is there", key)
	}
}

// diskUsage is what `du -s --block-size=1` says.
func diskUsage(t testing.TB, dir string) int64 {
	t.Helper()
	var sum int64
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		var st unix.Stat_t
		if err == nil {
			err = unix.Lstat(path, &st)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		sum += st.Blocks * 512
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return sum
}

func wantWithin(t testing.TB, dir string, limit int64) {
	t.Helper()
	if used := diskUsage(t, dir); used > limit {
		t.Errorf("the directory takes up %d bytes, %d over the limit of %d", used, used-limit, limit)
	}
}

// dirs is what the directories count for beyond baseCost.
func (t *Tier) dirs() (sum int64) {
	t.index.mu.Lock()
	defer t.index.mu.Unlock()
	for _, bytes := range t.index.mu.dirs {
		sum += bytes - blockSize
	}
	return sum
}

// idle is what is reserved while nothing is being written.
func idle(tier *Tier) int64 {
	sum := baseCost + tier.dirs()
	x := &tier.index
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, e := range x.mu.entries {
		sum += e.cost()
	}
	return sum
}

// wantNothingLeaked fails if space is reserved for what isn't there.
func wantNothingLeaked(t testing.TB, tier *Tier) {
	t.Helper()
	if got, want := tier.Counters().Bytes, idle(tier); got != want {
		t.Errorf("%d bytes are reserved, %d are in use", got, want)
	}
	tier.index.mu.Lock()
	defer tier.index.mu.Unlock()
	if tier.index.mu.leaving != 0 {
		t.Errorf("%d bytes are said to be on their way out", tier.index.mu.leaving)
	}
}

// files returns the paths below dir of all files but those of the tier itself.
func files(t testing.TB, dir string) []string {
	t.Helper()
	var paths []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && d.Name() != "lock" && d.Name() != "clean" && d.Name() != markName {
			paths = append(paths, strings.TrimPrefix(path, dir+"/"))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

// fileOf returns the path of the key's file.
func fileOf(t testing.TB, tier *Tier, key string) string {
	t.Helper()
	tier.index.mu.Lock()
	defer tier.index.mu.Unlock()
	e := tier.index.mu.entries[key]
	if e == nil {
		t.Fatalf("%s is not there", key)
	}
	return tier.path(e.name)
}

// logged is a log that a test reads.
type logged struct {
	mu struct {
		sync.Mutex
		strings.Builder
	}
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mu.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mu.Builder.String()
}

func newLog() (*logged, *slog.Logger) {
	l := new(logged)
	return l, slog.New(slog.NewTextHandler(l, nil))
}

// keysOf returns n keys of one shard.
func keysOf(shard, n int, suffix string) []string {
	var keys []string
	for i := 0; len(keys) < n; i++ {
		if key := fmt.Sprintf("k%d%s", i, suffix); shardOf(key) == shard {
			keys = append(keys, key)
		}
	}
	return keys
}

// noCheck takes every file.
func noCheck(io.ReaderAt) error { return nil }
