package disk

import (
	"errors"
	"io/fs"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

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
			f.Close()
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
	f.Close()
	wantNothingLeaked(t, tier)
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
