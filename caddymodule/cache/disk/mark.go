package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

const (
	// markName and markText follow https://bford.info/cachedir/, so that backup
	// programs can leave the directory out. The last line makes the mark ours.
	markName = "CACHEDIR.TAG"
	markText = `Signature: 8a477f597d28d172789f06886806bc55
# This directory is a cache; see https://bford.info/cachedir/
# It belongs to the disk tier of nix_cache, which deletes files in it.
`
)

// ForeignError says that a directory holds files that are not the tier's, which
// so does not touch it.
type ForeignError struct {
	Dir   string
	Names []string // some of the files
}

func (e *ForeignError) Error() string {
	return fmt.Sprintf("the directory is not empty and no disk tier: it has %s; give the tier an empty directory or a new one, such as %s",
		strings.Join(e.Names, ", "), filepath.Join(e.Dir, "nix-cache-tier"))
}

// claim makes sure that the directory is the tier's before anything else is done
// in it: it is marked, or it is empty, or a tier of an earlier version, and is
// marked now. Else *ForeignError.
func claim(dir string) error {
	path := filepath.Join(dir, markName)
	if text, err := os.ReadFile(path); err == nil && string(text) == markText {
		return nil
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	if foreign := foreignIn(dir, entries); len(foreign) > 0 {
		return &ForeignError{Dir: dir, Names: foreign}
	}
	return os.WriteFile(path, []byte(markText), 0o600)
}

// ignored are what file systems have in an empty directory.
var ignored = []string{"lost+found", ".snapshot", ".snapshots"}

const maxNamed = 3 // files that an error names

// foreignIn returns some of the files that keep a directory without a mark from
// being taken for a tier: those that look like none of a tier's files, and all
// others too, unless the directory has the whole layout of a tier.
func foreignIn(dir string, entries []fs.DirEntry) (foreign []string) {
	var own, others []string
	for _, d := range entries {
		name := d.Name()
		looksOwn, known := layout[name]
		switch {
		case slices.Contains(ignored, name):
		case !known:
			others = append(others, fmt.Sprintf("%.40q", name))
		case looksOwn(filepath.Join(dir, name), d):
			own = append(own, name)
		default:
			foreign = append(foreign, fmt.Sprintf("%q", name))
		}
	}
	if !slices.Contains(own, "lock") || !slices.Contains(own, "objects") || !slices.Contains(own, "staging") {
		foreign = append(foreign, others...)
	}
	return foreign[:min(len(foreign), maxNamed)]
}

// layout tells for each name in a tier whether what has it looks like the tier's.
// Earlier versions had the same, but for the mark.
var layout = map[string]func(path string, d fs.DirEntry) bool{
	markName:  startsAs(markText),
	"lock":    startsAs(""),
	"clean":   func(path string, _ fs.DirEntry) bool { return hasText(path, cleanText.MatchString) },
	"objects": hasOnly(isShard),
	"staging": hasOnly(isStaged),
	"spool":   func(_ string, d fs.DirEntry) bool { return d.IsDir() },
}

var (
	cleanText  = regexp.MustCompile(`^[0-9]*\n?$`)
	shardDir   = regexp.MustCompile(`^[0-9a-f]{2}$`)
	stagedName = regexp.MustCompile(`^[0-9]+$`) // as os.CreateTemp makes them
)

// startsAs is for a file with that text, or the beginning of it: a crash may have
// cut it short.
func startsAs(text string) func(string, fs.DirEntry) bool {
	return func(path string, _ fs.DirEntry) bool {
		return hasText(path, func(got string) bool { return strings.HasPrefix(text, got) })
	}
}

// maxOwnText is more than any text of a tier has.
const maxOwnText = 1 << 10

func hasText(path string, good func(string) bool) bool {
	info, err := os.Lstat(path)
	if err != nil || !info.Mode().IsRegular() || info.Size() > maxOwnText {
		return false
	}
	text, err := os.ReadFile(path)
	return err == nil && good(string(text))
}

func isShard(d fs.DirEntry) bool { return d.IsDir() && shardDir.MatchString(d.Name()) }

func isStaged(d fs.DirEntry) bool { return d.Type().IsRegular() && stagedName.MatchString(d.Name()) }

// hasOnly is for a directory in which everything is of that kind.
func hasOnly(kind func(fs.DirEntry) bool) func(string, fs.DirEntry) bool {
	return func(path string, _ fs.DirEntry) bool {
		entries, err := os.ReadDir(path)
		return err == nil && !slices.ContainsFunc(entries, func(d fs.DirEntry) bool { return !kind(d) })
	}
}

// clearStaging deletes what a process that has ended was writing.
func (t *Tier) clearStaging() error {
	entries, err := os.ReadDir(t.staging())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, d := range entries {
		if !isStaged(d) {
			t.log.Warn("disk tier: a file that is not ours is left alone", "file", filepath.Join("staging", d.Name()))
			continue
		}
		if err := os.Remove(filepath.Join(t.staging(), d.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return os.MkdirAll(t.staging(), 0o700)
}
