package durable_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stevedores-org/nix-cache/caddymodule/internal/durable"
)

const (
	staging = ".staging"
	// writerEnv makes the test binary a process that stages a file in that
	// directory, says so and waits to be killed.
	writerEnv = "DURABLE_TEST_WRITE_IN"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(writerEnv); dir != "" {
		stageAndWait(dir)
	}
	os.Exit(m.Run())
}

func stageAndWait(dir string) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		panic(err)
	}
	f, err := durable.Create(root, staging)
	if err != nil {
		panic(err)
	}
	io.WriteString(f, "half of it")
	fmt.Println("staged")
	io.ReadAll(os.Stdin) // until the parent ends
	os.Exit(1)
}

func openRoot(t *testing.T) *os.Root {
	t.Helper()
	root, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return root
}

func stage(t *testing.T, root *os.Root, text string) *durable.File {
	t.Helper()
	f, err := durable.Create(root, staging)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Abort() })
	if _, err := io.WriteString(f, text); err != nil {
		t.Fatal(err)
	}
	return f
}

// files returns the names of all regular files in root.
func files(t *testing.T, root *os.Root) []string {
	t.Helper()
	names := []string{}
	err := fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			names = append(names, name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func wantFile(t *testing.T, root *os.Root, name, text string) {
	t.Helper()
	got, err := root.ReadFile(name)
	if err != nil || string(got) != text {
		t.Errorf("%s holds %q, %v; want %q", name, got, err, text)
	}
}

func TestCommitReplaces(t *testing.T) {
	root := openRoot(t)
	for _, text := range []string{"old", "new"} {
		f := stage(t, root, text)
		if err := f.Commit("a/b/c"); err != nil {
			t.Fatal(err)
		}
		if err := f.Abort(); err != nil {
			t.Errorf("Abort after Commit = %v", err)
		}
		wantFile(t, root, "a/b/c", text)
	}
	if got := files(t, root); len(got) != 1 {
		t.Errorf("left behind: %q", got)
	}
}

func TestInvisibleBeforeCommit(t *testing.T) {
	root := openRoot(t)
	if err := stage(t, root, "old").Commit("a"); err != nil {
		t.Fatal(err)
	}
	f := stage(t, root, "new")
	wantFile(t, root, "a", "old")
	if err := f.Abort(); err != nil {
		t.Fatal(err)
	}
	wantFile(t, root, "a", "old")
	if got := files(t, root); len(got) != 1 {
		t.Errorf("Abort left %q", got)
	}
	if err := f.Commit("a"); err == nil {
		t.Error("Commit after Abort succeeded")
	}
}

func TestCommitNewHasOneWinner(t *testing.T) {
	root := openRoot(t)
	texts := []string{"0", "1", "2", "3", "4", "5", "6", "7"}
	errs := make([]error, len(texts))
	var racers sync.WaitGroup
	for i, text := range texts {
		f := stage(t, root, text)
		racers.Go(func() { errs[i] = f.CommitNew("dir/name") })
	}
	racers.Wait()
	winner := -1
	for i, err := range errs {
		switch {
		case err == nil && winner >= 0:
			t.Errorf("both %d and %d won", winner, i)
		case err == nil:
			winner = i
		case !errors.Is(err, fs.ErrExist):
			t.Errorf("CommitNew = %v, want fs.ErrExist", err)
		}
	}
	if winner < 0 {
		t.Fatal("nobody won")
	}
	wantFile(t, root, "dir/name", texts[winner])
	if got := files(t, root); len(got) != 1 {
		t.Errorf("left behind: %q", got)
	}
}

func TestCommitOntoFileAsDirectory(t *testing.T) {
	root := openRoot(t)
	if err := stage(t, root, "file").Commit("a"); err != nil {
		t.Fatal(err)
	}
	if err := stage(t, root, "below").Commit("a/b"); err == nil {
		t.Error("Commit below a file succeeded")
	}
	wantFile(t, root, "a", "file")
	if got := files(t, root); len(got) != 1 {
		t.Errorf("left behind: %q", got)
	}
}

func TestSweepSparesTheLivingOnly(t *testing.T) {
	root := openRoot(t)
	mine := stage(t, root, "mine")
	writer := exec.CommandContext(t.Context(), os.Args[0])
	writer.Env = append(os.Environ(), writerEnv+"="+root.Name())
	stdin, err := writer.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	stdout, err := writer.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := writer.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "staged\n" {
		t.Fatalf("writer said %q, %v", line, err)
	}

	sweep(t, root)
	if got := files(t, root); len(got) != 2 {
		t.Fatalf("after a sweep under two writers: %q, want both files", got)
	}
	writer.Process.Kill()
	writer.Wait()
	if got := files(t, root); len(got) != 2 {
		t.Fatalf("after the kill: %q, want the leftover and ours", got)
	}
	sweep(t, root)
	if got := files(t, root); len(got) != 1 {
		t.Errorf("after a sweep: %q, want ours only", got)
	}
	if err := mine.Commit("mine"); err != nil {
		t.Fatal(err)
	}
	wantFile(t, root, "mine", "mine")
}

func sweep(t *testing.T, root *os.Root) {
	t.Helper()
	if err := durable.Sweep(root, staging); err != nil {
		t.Fatal(err)
	}
}

func TestSweepWithoutStaging(t *testing.T) {
	root := openRoot(t)
	sweep(t, root)
	if _, err := os.Stat(filepath.Join(root.Name(), staging)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Sweep made the staging directory: %v", err)
	}
}

func TestRemove(t *testing.T) {
	root := openRoot(t)
	if err := stage(t, root, "x").Commit("a/b"); err != nil {
		t.Fatal(err)
	}
	if err := durable.Remove(root, "a/b"); err != nil {
		t.Fatal(err)
	}
	if err := durable.Remove(root, "a/b"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("second Remove = %v, want fs.ErrNotExist", err)
	}
}

func TestMakeRoot(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "b")
	for range 2 {
		root, err := durable.MakeRoot(path)
		if err != nil {
			t.Fatal(err)
		}
		defer root.Close()
		if err := stage(t, root, "x").Commit("c"); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(path, "c")
	if root, err := durable.MakeRoot(filepath.Join(file, "d")); err == nil {
		root.Close()
		t.Error("MakeRoot below a file succeeded")
	}
}
