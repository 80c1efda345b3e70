package disk

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

const (
	oldLog   = "0123abcd-log/hash-hello.drv"
	oldTrace = "0123abcd-build-trace-v2/hash-hello.drv/out.doi"
)

// putOld puts a file where earlier versions put one.
func putOld(t *testing.T, dir, key, name string) string {
	t.Helper()
	path := filepath.Join(dir, "objects", shardName(shardOf(key)), name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// inShards returns what the shards hold.
func inShards(t *testing.T, dir string) (paths []string) {
	t.Helper()
	objects := filepath.Join(dir, "objects")
	err := filepath.WalkDir(objects, func(path string, _ fs.DirEntry, err error) error {
		if rel, _ := filepath.Rel(objects, path); len(rel) > 2 {
			paths = append(paths, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

func TestFilesUnderKeysWithASlashAreRemoved(t *testing.T) {
	dir := t.TempDir()
	putOld(t, dir, oldLog, oldLog+",7,,1")
	putOld(t, dir, oldTrace, oldTrace+",7,,2")
	tier := openTier(t, dir, roomy)
	if left := inShards(t, dir); len(left) > 0 {
		t.Errorf("left are %q", left)
	}
	wantNothingLeaked(t, tier)
}

func TestForeignFilesInTheirPlaceStay(t *testing.T) {
	dir := t.TempDir()
	foreign := []string{
		putOld(t, dir, oldLog, oldLog),
		putOld(t, dir, oldTrace, oldLog+",7,,1"), // of another shard
		putOld(t, dir, oldTrace, "log/a,7,,1"),
		putOld(t, dir, oldTrace, "0123abcd-logs/a,7,,1"),
	}
	elsewhere := filepath.Join(t.TempDir(), "a,7,,1")
	if err := os.WriteFile(elsewhere, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(filepath.Dir(foreign[0]), "link")
	if err := os.Symlink(filepath.Dir(elsewhere), link); err != nil {
		t.Fatal(err)
	}
	before := inShards(t, dir)
	putOld(t, dir, oldLog, oldLog+",7,,3") // ours among them
	openTier(t, dir, roomy)
	if after := inShards(t, dir); !slices.Equal(after, before) {
		t.Errorf("left are %q, want %q", after, before)
	}
	if _, err := os.Stat(elsewhere); err != nil {
		t.Error(err)
	}
}
