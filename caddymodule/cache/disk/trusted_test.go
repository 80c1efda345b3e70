package disk

import (
	"errors"
	"io/fs"
	"os"
	"testing"
)

// checks counts how often a file was checked.
type checks int

func (c *checks) check(*os.File) error { *c++; return nil }

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
	if _, _, err := tier.Open("key", func(*os.File) error { return errors.New("wrong") }); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Open: %v, want absence", err)
	}
	if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the file is still there: %v", err)
	}
}
