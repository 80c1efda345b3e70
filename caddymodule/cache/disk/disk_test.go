package disk

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

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
	_, err := Open(dir, Limits{Bytes: roomy}, quiet())
	if !errors.Is(err, ErrInUse) || strings.Contains(err.Error(), "another process") {
		t.Errorf("a second Open: %v, want ErrInUse, and this process as the one", err)
	}
	if err := tier.Close(); err != nil {
		t.Fatal(err)
	}
	openTier(t, dir, roomy)
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

func TestReadersOfARemovedFileGoOn(t *testing.T) {
	tier := openTier(t, t.TempDir(), roomy)
	mustStore(t, tier, "key", mib)
	f, _, err := tier.Open("key", noCheck)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	tier.Remove("key")
	wantAbsent(t, tier, "key")
	if got, err := io.ReadAll(f); err != nil || string(got) != string(content("key", mib)) {
		t.Errorf("read %d bytes, %v", len(got), err)
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
