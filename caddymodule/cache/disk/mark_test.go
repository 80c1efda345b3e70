package disk

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// lay makes files with these texts below dir, and directories where a name ends
// in a slash.
func lay(t *testing.T, dir string, texts map[string]string) {
	t.Helper()
	for name, text := range texts {
		path := filepath.Join(dir, name)
		err := os.MkdirAll(filepath.Dir(path), 0o700)
		if strings.HasSuffix(name, "/") {
			err = os.MkdirAll(path, 0o700)
		} else if err == nil {
			err = os.WriteFile(path, []byte(text), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestOthersFilesAreRefused: nothing in a directory of somebody else's changes.
func TestOthersFilesAreRefused(t *testing.T) {
	for name, texts := range map[string]map[string]string{
		"a file":                    {"notes.txt": "x"},
		"a staging of files":        {"staging/release.tar": "x"},
		"a staging of directories":  {"staging/2024/report": "x"},
		"a clean that is no time":   {"clean": "#!/bin/sh"},
		"a lock that has a text":    {"lock": "1234"},
		"objects of a git":          {"objects/pack/pack-1": "x", "objects/00/x": ""},
		"a mark of another cache":   {markName: strings.Split(markText, "\n")[0] + "\n# other\n", "db": "x"},
		"names of a tier and more":  {"lock": "", "staging/": "", "notes.txt": "x"},
		"a directory origin":        {"objects/nix-cache-info": "x", "tier/": ""},
		"hidden files, lost+found":  {".profile": "x", "lost+found/": ""},
		"a staging that is a file":  {"staging": "x"},
		"a spool that is a file":    {"spool": "x"},
		"shards beside other files": {"objects/00/a,1,,1": "x", "b": "x"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			lay(t, dir, texts)
			_, err := Open(dir, Limits{Bytes: roomy}, quiet())
			var foreign *ForeignError
			if !errors.As(err, &foreign) || !strings.Contains(err.Error(), "give the tier an empty directory") {
				t.Errorf("Open: %v, want a ForeignError that says what to do", err)
			}
			left := make(map[string]bool)
			filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
				left[strings.TrimPrefix(path, dir+"/")] = true
				return err
			})
			for name, text := range texts {
				delete(left, name)
				if strings.HasSuffix(name, "/") {
					continue
				}
				if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(got) != text {
					t.Errorf("%s is %q, %v", name, got, err)
				}
			}
			if left["lock"] || left[markName] {
				t.Errorf("the directory has new files: %v", left)
			}
		})
	}
}

// TestOwnDirectories: what is taken for a tier.
func TestOwnDirectories(t *testing.T) {
	for name, texts := range map[string]map[string]string{
		"empty":                        {},
		"a new file system":            {"lost+found/": ""},
		"an earlier version's":         {"lock": "", "clean": "0\n", "staging/": "", "objects/0a/": "", "spool/": ""},
		"with a file left in staging":  {"lock": "", "staging/123": "x"},
		"an earlier version's, shared": {"lock": "", "staging/": "", "objects/0a/": "", "notes": "x"},
		"marked when a crash came":     {markName: markText[:20], "lock": ""},
		"marked, and shared":           {markName: markText, "notes": "x", "staging/theirs": "x", "staging/1/theirs": "x"},
		"without a lock":               {"staging/": "", "objects/0a/": ""},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			lay(t, dir, texts)
			for range 2 {
				tier := openLogged(t, dir, roomy, quiet())
				mustStore(t, tier, "key", 10)
				tier.Remove("key")
				if err := tier.Close(); err != nil {
					t.Fatal(err)
				}
			}
			if text, err := os.ReadFile(filepath.Join(dir, markName)); err != nil || string(text) != markText {
				t.Errorf("the mark is %q, %v", text, err)
			}
			for _, theirs := range []string{"notes", "staging/theirs", "staging/1/theirs"} {
				if _, put := texts[theirs]; put {
					if _, err := os.Stat(filepath.Join(dir, theirs)); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
}

// TestErrorsSayWhatToDo, with the very command.
func TestErrorsSayWhatToDo(t *testing.T) {
	dir := "/srv/a b/tier"
	for err, want := range map[error]string{
		unix.EACCES: " may not use it: run mkdir -p '/srv/a b/tier' && chown -R " + userName() + " '/srv/a b/tier'",
		unix.EROFS:  "run mount -o remount,rw /",
		unix.ENOSPC: "see df -h '/srv/a b/tier' and df -i",
		unix.EIO:    "input/output error",
	} {
		if got := advised(dir, &fs.PathError{Op: "open", Path: dir, Err: err}); !errors.Is(got, err) || !strings.Contains(got.Error(), want) {
			t.Errorf("%v, want %q in it", got, want)
		}
	}
}

// TestPermissionDenied needs a process of another user: see TestMain.
func TestPermissionDenied(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can start a process of another user")
	}
	above := t.TempDir()
	if err := os.Chmod(above, 0o711); err != nil {
		t.Fatal(err)
	}
	closed := filepath.Join(above, "closed")
	lay(t, above, map[string]string{"theirs/": "", "closed/tier/": ""})
	for dir, want := range map[string]string{
		above + "/theirs":   "user nobody may not use it: run chown -R nobody " + above + "/theirs",
		above + "/new/tier": "user nobody may not use it: run mkdir -p " + above + "/new/tier && chown -R nobody",
		closed + "/tier":    "user nobody may not enter " + closed + ": run chmod o+x " + closed,
	} {
		cmd := exec.Command("setpriv", "--reuid=nobody", "--clear-groups", "env", openDir+"="+dir, executable(t, above))
		out, err := cmd.CombinedOutput()
		if err == nil || !strings.Contains(string(out), want) {
			t.Errorf("%s: %v, want %q", out, err, want)
		}
	}
}

// executable returns a copy of the test that everybody may run.
func executable(t *testing.T, dir string) string {
	t.Helper()
	text, err := os.ReadFile(os.Args[0])
	path := filepath.Join(dir, "test")
	if err := errors.Join(err, os.WriteFile(path, text, 0o755)); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Dir(dir), 0o711); err != nil { // made by t.TempDir
		t.Fatal(err)
	}
	return path
}
