package dir

import (
	"io/fs"
	"strings"
	"syscall"
	"testing"

	"github.com/stevedores-org/nix-cache/caddymodule/origin"
)

// TestProblem has the errors that a test can't provoke everywhere: the disk's,
// and those of permissions, which don't hold against root.
func TestProblem(t *testing.T) {
	d := New("/cache")
	for _, tt := range []struct {
		errno syscall.Errno
		says  string
	}{
		{syscall.EIO, "input/output error"},
		{syscall.EACCES, "read and write /cache"},
		{syscall.EROFS, "read-only"},
		{syscall.ENOSPC, "no space"},
		{syscall.ESTALE, "stale"},
		{syscall.ENOTDIR, "not a directory"},
	} {
		err := d.problem("open", "a", &fs.PathError{Op: "openat", Path: "a", Err: tt.errno})
		if _, ok := err.(*origin.UnavailableError); !ok || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%v becomes %v, want an UnavailableError that says %q", tt.errno, err, tt.says)
		}
	}
}
