package disk

import (
	"cmp"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
)

// nestedName is that of the directories that earlier versions made within a
// shard, out of keys with a slash in them.
var nestedName = regexp.MustCompile(`^[0-9a-df-np-sv-z]{8}-(log|realisations|build-trace-v2|debuginfo)$`)

// clearNested removes the files of such a directory, which nobody looks for any
// more, and then what is empty of it. Whatever the tier did not put there stays.
func (t *Tier) clearNested(name string, shard int) {
	root := t.shard(shard)
	var dirs []string
	err := filepath.WalkDir(filepath.Join(root, name), func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir():
			dirs = append(dirs, path)
			return nil
		case !d.Type().IsRegular() || !isNested(path[len(root)+1:], shard):
			return nil
		}
		return os.Remove(path)
	})
	for _, dir := range slices.Backward(dirs) {
		err = cmp.Or(err, os.Remove(dir)) // fails if something is left in it
	}
	if err != nil {
		t.log.Warn("disk tier: a directory is left alone that is not ours, or not only", "error", err)
	}
}

// isNested reports whether a file was stored under a key with a slash.
func isNested(name string, shard int) bool {
	key, _, _, ok := parseName(name)
	return ok && shardOf(key) == shard
}
