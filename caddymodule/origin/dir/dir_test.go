package dir_test

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/stevedores-org/nix-cache/caddymodule/origin"
	"github.com/stevedores-org/nix-cache/caddymodule/origin/dir"
	"github.com/stevedores-org/nix-cache/caddymodule/origin/origintest"
)

func TestConforms(t *testing.T) {
	origintest.Run(t, func(t *testing.T) origin.Origin { return dir.New(filepath.Join(t.TempDir(), "cache")) })
}

const narinfo = "0c0lnmaqf9qsj2ivdqlwjh5sxkjqkqpk.narinfo"

func create(t *testing.T, d *dir.Dir, path, text string, opts origin.CreateOptions) origin.Staged {
	t.Helper()
	staged, err := d.Create(t.Context(), path, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { staged.Abort() })
	if _, err := io.WriteString(staged, text); err != nil {
		t.Fatal(err)
	}
	return staged
}

func put(t *testing.T, d *dir.Dir, path, text string) {
	t.Helper()
	if err := create(t, d, path, text, origin.CreateOptions{Size: -1}).Commit(); err != nil {
		t.Fatal(err)
	}
}

func wantUnavailable(t *testing.T, what string, err error) {
	t.Helper()
	_, ok := errors.AsType[*origin.UnavailableError](err)
	if !ok || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s = %v, want an UnavailableError alone", what, err)
	}
}

func TestLayoutIsNix(t *testing.T) {
	root := t.TempDir()
	d := dir.New(root)
	put(t, d, "nar/a.nar.xz", "archive")
	text, err := os.ReadFile(filepath.Join(root, "nar", "a.nar.xz"))
	if err != nil || string(text) != "archive" {
		t.Errorf("the file holds %q, %v", text, err)
	}
	if err := os.WriteFile(filepath.Join(root, narinfo), []byte("by Nix"), 0o644); err != nil {
		t.Fatal(err)
	}
	info, err := d.Stat(t.Context(), narinfo)
	if err != nil || info.Size != 6 {
		t.Errorf("Stat of a file of Nix's = %+v, %v", info, err)
	}
}

func TestBodyIsTheFile(t *testing.T) {
	d := dir.New(t.TempDir())
	put(t, d, narinfo, "0123456789")
	_, body, err := d.Open(t.Context(), narinfo, origin.OpenOptions{Offset: 4})
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	if _, ok := body.(*os.File); !ok {
		t.Errorf("body is a %T, want an *os.File", body)
	}
	if rest, err := io.ReadAll(body); string(rest) != "456789" || err != nil {
		t.Errorf("body = %q, %v", rest, err)
	}
}

func TestTruncatedFileIsNoEnd(t *testing.T) {
	root := t.TempDir()
	d := dir.New(root)
	put(t, d, narinfo, "0123456789")
	_, body, err := d.Open(t.Context(), narinfo, origin.OpenOptions{Length: 8})
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	if err := os.Truncate(filepath.Join(root, narinfo), 5); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(body); string(got) != "01234" || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("body = %q, %v; want 01234 and io.ErrUnexpectedEOF", got, err)
	}
}

func TestNewAndReadsTouchNothing(t *testing.T) {
	root := filepath.Join(t.TempDir(), "a", "b")
	d := dir.New(root)
	if _, err := d.Stat(t.Context(), narinfo); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Stat = %v, want fs.ErrNotExist", err)
	}
	for entry, err := range d.List(t.Context(), "") {
		t.Errorf("List yields %v, %v", entry, err)
	}
	if _, err := os.Stat(filepath.Dir(root)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a directory has been made: %v", err)
	}
	put(t, d, narinfo, "text")
	if _, err := d.Stat(t.Context(), narinfo); err != nil {
		t.Errorf("Stat after Commit = %v", err)
	}
}

func TestVanishedDirectoryIsNotEmpty(t *testing.T) {
	root := filepath.Join(t.TempDir(), "cache")
	d := dir.New(root)
	put(t, d, narinfo, "text")
	if err := os.Rename(root, root+".away"); err != nil {
		t.Fatal(err)
	}
	_, err := d.Stat(t.Context(), narinfo)
	wantUnavailable(t, "Stat", err)
	_, _, err = d.Open(t.Context(), "nar/other", origin.OpenOptions{})
	wantUnavailable(t, "Open", err)
	for _, err := range d.List(t.Context(), "") {
		wantUnavailable(t, "List", err)
	}
	_, err = d.Create(t.Context(), narinfo, origin.CreateOptions{Size: -1})
	wantUnavailable(t, "Create", err)
	if err := os.Rename(root+".away", root); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Stat(t.Context(), narinfo); err != nil {
		t.Errorf("Stat after the directory came back = %v", err)
	}
}

func TestFileInPlaceOfDirectory(t *testing.T) {
	root := filepath.Join(t.TempDir(), "cache")
	if err := os.WriteFile(root, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	d := dir.New(root)
	_, err := d.Stat(t.Context(), narinfo)
	wantUnavailable(t, "Stat", err)
	_, err = d.Create(t.Context(), narinfo, origin.CreateOptions{Size: -1})
	wantUnavailable(t, "Create", err)
}

func TestNothingOutside(t *testing.T) {
	parent := t.TempDir()
	root := filepath.Join(parent, "cache")
	d := dir.New(root)
	put(t, d, narinfo, "text")
	secret := filepath.Join(parent, "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(secret, filepath.Join(root, "link.narinfo")); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"../secret", secret, "link.narinfo", "nar/../../secret", "."} {
		if _, body, err := d.Open(t.Context(), path, origin.OpenOptions{}); err == nil {
			body.Close()
			t.Errorf("Open(%q) succeeded", path)
		}
		if path == "link.narinfo" {
			continue // Replacing the link itself is fine.
		}
		if _, err := d.Create(t.Context(), path, origin.CreateOptions{Size: -1}); err == nil {
			t.Errorf("Create(%q) succeeded", path)
		}
	}
	if text, err := os.ReadFile(secret); string(text) != "secret" || err != nil {
		t.Errorf("the file outside holds %q, %v", text, err)
	}
}

func TestStagedFilesAreHidden(t *testing.T) {
	root := t.TempDir()
	d := dir.New(root)
	create(t, d, narinfo, "text", origin.CreateOptions{Size: -1})
	staged, err := os.ReadDir(filepath.Join(root, ".staging"))
	if err != nil || len(staged) != 1 {
		t.Fatalf("staging folder holds %v, %v; want one file", staged, err)
	}
	if _, err := d.Stat(t.Context(), ".staging/"+staged[0].Name()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Stat of a staged file = %v, want fs.ErrNotExist", err)
	}
	for entry, err := range d.List(t.Context(), "") {
		t.Errorf("List yields %v, %v", entry, err)
	}
}

// TestLeftoversAreSwept: those of dead processes at the first Create, while
// what another is writing stays.
func TestLeftoversAreSwept(t *testing.T) {
	root := t.TempDir()
	living := create(t, dir.New(root), narinfo, "text", origin.CreateOptions{Size: -1})
	leftover := filepath.Join(root, ".staging", "leftover")
	if err := os.WriteFile(leftover, []byte("half"), 0o644); err != nil {
		t.Fatal(err)
	}
	put(t, dir.New(root), "nar/other", "text")
	if _, err := os.Stat(leftover); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the leftover is still there: %v", err)
	}
	if err := living.Commit(); err != nil {
		t.Errorf("Commit of what was being written = %v", err)
	}
}

// TestIfAbsentAcrossProcesses stands two Dirs for two processes.
func TestIfAbsentAcrossProcesses(t *testing.T) {
	root := t.TempDir()
	opts := origin.CreateOptions{Size: -1, IfAbsent: true}
	first := create(t, dir.New(root), narinfo, "first", opts)
	second := create(t, dir.New(root), narinfo, "second", opts)
	if err := second.Commit(); err != nil {
		t.Fatal(err)
	}
	if err := first.Commit(); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Commit = %v, want fs.ErrExist", err)
	}
}
