package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// trusted tells from a file's modification time whether its bytes are those that
// were stored. Times are in nanoseconds since 1970, by the file system's clock.
//
//	  suspect              until
//	─────┼──── trusted ──────┼────▶ modified
//	  a stop without       the last stop
//	  order before it      in order
type trusted struct {
	suspect int64 // when a process found that the one before had not stopped in order
	until   int64 // when the last one stopped in order; 0 if it did not
}

func (t trusted) has(modified int64) bool { return t.suspect <= modified && modified <= t.until }

func markOf(dir string) string { return filepath.Join(dir, "clean") }

// takeTrusted reads the mark that a process leaves in the directory when it stops
// in order, and takes it away: this one has yet to stop.
func takeTrusted(dir string) (trusted, error) {
	text, err := os.ReadFile(markOf(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return trustedFromNow(dir)
	}
	if err != nil {
		return trusted{}, err
	}
	st, err := os.Stat(markOf(dir))
	if err != nil {
		return trusted{}, err
	}
	if err := os.Remove(markOf(dir)); err != nil {
		return trusted{}, err
	}
	suspect, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	if err != nil { // cut short
		return trustedFromNow(dir)
	}
	return trusted{suspect: suspect, until: st.ModTime().UnixNano()}, nil
}

// leave leaves the mark.
func (t trusted) leave(dir string) error {
	if err := os.WriteFile(markOf(dir), []byte(strconv.FormatInt(t.suspect, 10)+"\n"), 0o600); err != nil {
		return fmt.Errorf("close disk tier: %w", err)
	}
	return nil
}

// trustedFromNow trusts nothing that is there.
func trustedFromNow(dir string) (trusted, error) {
	now, err := renew(filepath.Join(dir, "lock"))
	return trusted{suspect: now}, err
}

// renew sets a file's modification time to now, by the file system's clock, and
// returns it.
func renew(path string) (modified int64, err error) {
	now := unix.Timespec{Nsec: unix.UTIME_NOW}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{now, now}, 0); err != nil {
		return 0, &fs.PathError{Op: "utimensat", Path: path, Err: err}
	}
	st, err := os.Stat(path)
	if err != nil {
		return 0, err
	}
	return st.ModTime().UnixNano(), nil
}
