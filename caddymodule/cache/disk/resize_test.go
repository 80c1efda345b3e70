package disk

import (
	"errors"
	"testing"
)

// TestResize: a file whose size is known only at its end, with room reserved for
// just what it has.
func TestResize(t *testing.T) {
	for _, sizes := range [][]int64{
		{0, 1},
		{100, 100},
		{mib, 5 * mib, 3*mib + 1},
		{5 * mib, 0},
		{1, 2, 4097, 40_000, mib},
	} {
		dir := t.TempDir()
		tier := openTier(t, dir, roomy)
		f, err := tier.Create("key", sizes[0])
		if err != nil {
			t.Fatal(err)
		}
		size := sizes[len(sizes)-1]
		for _, next := range sizes[1:] {
			if err := f.Resize(next); err != nil || f.Size() != next {
				t.Fatalf("Resize(%d) = %v, Size is %d", next, err, f.Size())
			}
			if used, reserved := diskUsage(t, dir), tier.Counters().Bytes; used > reserved {
				t.Errorf("%d bytes are in use, %d reserved", used, reserved)
			}
		}
		if _, err := f.WriteAt(content("key", int(size)), 0); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(f.Commit("", yes), f.Close()); err != nil {
			t.Fatal(err)
		}
		wantContent(t, tier, "key", int(size))
		wantNothingLeaked(t, tier)
		wantWithin(t, dir, tier.Counters().Bytes)
	}
}

// TestResizeWithoutRoom: others make way as far as they can; a file that finds no
// room leaves nothing.
func TestResizeWithoutRoom(t *testing.T) {
	dir := t.TempDir()
	tier := openTier(t, dir, roomy)
	mustStore(t, tier, "older", 8*mib)
	f, err := tier.Create("key", mib)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Resize(12 * mib); err != nil {
		t.Error(err)
	}
	wantAbsent(t, tier, "older")
	wantWithin(t, dir, roomy)
	for _, size := range []int64{2 * roomy, maxSize + 1} {
		if err := f.Resize(size); !errors.Is(err, ErrNoRoom) {
			t.Errorf("Resize(%d) = %v, want ErrNoRoom", size, err)
		}
	}
	if err := errors.Join(f.Abort(), f.Close()); err != nil {
		t.Error(err)
	}
	wantNothingLeaked(t, tier)
	wantWithin(t, dir, roomy)
}

// TestResizeOfAClosedFile: after any error Abort gives all of the room back.
func TestResizeOfAClosedFile(t *testing.T) {
	tier := openTier(t, t.TempDir(), roomy)
	f, err := tier.Create("key", mib)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	for _, size := range []int64{2 * mib, 100} {
		if err := f.Resize(size); err == nil {
			t.Errorf("Resize(%d) of a closed file has no error", size)
		}
	}
	if err := f.Abort(); err != nil {
		t.Error(err)
	}
	wantNothingLeaked(t, tier)
}
