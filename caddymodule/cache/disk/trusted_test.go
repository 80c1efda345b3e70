package disk

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"testing"
	"time"
)

// checks counts how often a file was checked.
type checks int

func (c *checks) check(io.ReaderAt) error { *c++; return nil }

func (c *checks) open(t *testing.T, tier *Tier, want checks) {
	t.Helper()
	*c = 0
	f, _, err := tier.Open("key", c.check)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	if *c != want {
		t.Errorf("the file was checked %d times, want %d", *c, want)
	}
}

func reopen(t *testing.T, dir string) *Tier {
	t.Helper()
	tier, err := Open(dir, Limits{Bytes: roomy}, quiet())
	if err != nil {
		t.Fatal(err)
	}
	<-tier.scanned
	return tier
}

// crash ends a tier as kill -9 does.
func crash(tier *Tier) { tier.lock.Close() }

func TestCheckedAtFirstUseAfterACrash(t *testing.T) {
	var c checks
	dir := t.TempDir()
	tier := reopen(t, dir)
	mustStore(t, tier, "key", 10)
	c.open(t, tier, 0)
	tier.Close()

	tier = reopen(t, dir) // after a stop in order
	c.open(t, tier, 0)
	crash(tier)

	tier = reopen(t, dir)
	tier.Close() // in order, but what the crash left is still to be checked

	tier = reopen(t, dir)
	c.open(t, tier, 1)
	c.open(t, tier, 0)
	tier.Close()

	tier = reopen(t, dir)
	c.open(t, tier, 0) // checked since the crash
	tier.Close()
}

func TestCheckedWhenModified(t *testing.T) {
	var c checks
	tier := reopen(t, t.TempDir())
	defer tier.Close()
	mustStore(t, tier, "key", 10)
	if err := os.WriteFile(fileOf(t, tier, "key"), make([]byte, 10), 0o600); err != nil {
		t.Fatal(err)
	}
	c.open(t, tier, 1)
	c.open(t, tier, 0)
}

func TestWhatFailsItsCheckIsRemoved(t *testing.T) {
	dir := t.TempDir()
	tier := reopen(t, dir)
	mustStore(t, tier, "key", 10)
	crash(tier)
	tier = reopen(t, dir)
	defer tier.Close()
	file := fileOf(t, tier, "key")
	if _, _, err := tier.Open("key", func(io.ReaderAt) error { return errors.New("wrong") }); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Open: %v, want absence", err)
	}
	if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the file is still there: %v", err)
	}
}

// Whatever the clock does, a file is kept, and not trusted by mistake.
func TestClockJumps(t *testing.T) {
	for name, stamp := range map[string]struct{ file, mark time.Duration }{
		"back after it was stored":     {file: 24 * time.Hour},
		"back before it was stored":    {file: -24 * time.Hour},
		"back before the stop":         {mark: -24 * time.Hour},
		"forward before the stop":      {mark: 24 * time.Hour},
		"forward and back in the stop": {file: 24 * time.Hour, mark: -24 * time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			tier := reopen(t, dir)
			mustStore(t, tier, "key", 10)
			file := fileOf(t, tier, "key")
			tier.Close()
			for path, by := range map[string]time.Duration{file: stamp.file, markOf(dir): stamp.mark} {
				at := time.Now().Add(by)
				if err := os.Chtimes(path, at, at); err != nil {
					t.Fatal(err)
				}
			}
			tier = reopen(t, dir)
			defer tier.Close()
			checked := false
			f, _, err := tier.Open("key", func(io.ReaderAt) error { checked = true; return nil })
			if err != nil {
				t.Fatal(err)
			}
			f.Close()
			if changedAfterStop := stamp.file > stamp.mark; changedAfterStop && !checked {
				t.Error("a file that is newer than the stop was trusted")
			}
			var c checks
			c.open(t, tier, 0) // once is enough
		})
	}
}
