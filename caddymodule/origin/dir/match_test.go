package dir_test

import (
	"errors"
	"io"
	"strconv"
	"sync"
	"testing"

	"github.com/stevedores-org/nix-cache/caddymodule/origin"
	"github.com/stevedores-org/nix-cache/caddymodule/origin/dir"
)

// TestIfMatchBetweenDirs: as many replacements as were reported took place, though
// half of them came through another Dir, as from another process.
func TestIfMatchBetweenDirs(t *testing.T) {
	root := t.TempDir()
	dirs := []*dir.Dir{dir.New(root), dir.New(root)}
	put(t, dirs[0], narinfo, "0")
	const writers, each = 4, 25
	var all sync.WaitGroup
	for i := range writers {
		d := dirs[i%len(dirs)]
		all.Go(func() {
			for done := 0; done < each; {
				switch err := increment(t, d); {
				case err == nil:
					done++
				case !errors.Is(err, origin.ErrChanged):
					t.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	_, body, err := dirs[0].Open(t.Context(), narinfo, origin.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	if text, err := io.ReadAll(body); err != nil || string(text) != strconv.Itoa(writers*each) {
		t.Errorf("counted to %s, %v; want %d", text, err, writers*each)
	}
}

// increment replaces the number in an object by the next one.
func increment(t *testing.T, d *dir.Dir) error {
	info, body, err := d.Open(t.Context(), narinfo, origin.OpenOptions{})
	if err != nil {
		return err
	}
	defer body.Close()
	text, err := io.ReadAll(body)
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(string(text))
	if err != nil {
		return err
	}
	staged, err := d.Create(t.Context(), narinfo, origin.CreateOptions{Size: -1, IfMatch: info.ETag})
	if err != nil {
		return err
	}
	defer staged.Abort()
	if _, err := io.WriteString(staged, strconv.Itoa(n+1)); err != nil {
		return err
	}
	return staged.Commit()
}

// TestIfMatchAgainstDelete: what was deleted through another Dir does not come back.
func TestIfMatchAgainstDelete(t *testing.T) {
	root := t.TempDir()
	d, other := dir.New(root), dir.New(root)
	put(t, d, narinfo, "old")
	info, err := d.Stat(t.Context(), narinfo)
	if err != nil {
		t.Fatal(err)
	}
	staged := create(t, d, narinfo, "new", origin.CreateOptions{Size: -1, IfMatch: info.ETag})
	if err := other.Delete(t.Context(), narinfo); err != nil {
		t.Fatal(err)
	}
	if err := staged.Commit(); !errors.Is(err, origin.ErrChanged) {
		t.Errorf("Commit = %v, want ErrChanged", err)
	}
}
