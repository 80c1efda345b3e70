package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"regexp"
	"strings"

	"golang.org/x/sys/unix"
)

// advised adds to an error of the directory what to do about it.
func advised(dir string, err error) error {
	advice := ""
	switch {
	case errors.Is(err, fs.ErrPermission):
		advice = permissionAdvice(dir)
	case errors.Is(err, unix.EROFS):
		advice = fmt.Sprintf("this process may not write there: run mount -o remount,rw %s, or under systemd add ReadWritePaths=%s to the unit", quoted(mountPoint(dir)), quoted(dir))
	case isFull(err):
		advice = fmt.Sprintf("the file system has no space or no inodes left: see df -h %[1]s and df -i %[1]s, and make room", quoted(dir))
	default:
		return err
	}
	return fmt.Errorf("%w: %s", err, advice)
}

// isFull reports whether an error says that the file system has no more space,
// inodes or quota.
func isFull(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }

func permissionAdvice(dir string) string {
	name := userName()
	if closed := closedParent(dir); closed != "" {
		return fmt.Sprintf("user %s may not enter %s: run chmod o+x %s", name, closed, quoted(closed))
	}
	command := fmt.Sprintf("chown -R %s %s", quoted(name), quoted(dir))
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		command = fmt.Sprintf("mkdir -p %s && %s", quoted(dir), command)
	}
	return fmt.Sprintf("user %s may not use it: run %s", name, command)
}

// userName is that of the process's user, or its id.
func userName() string {
	if u, err := user.Current(); err == nil && u.Username != "" {
		return u.Username
	}
	return fmt.Sprint(os.Geteuid())
}

// closedParent returns the directory above dir that the process may not enter; ""
// if there is none.
func closedParent(dir string) string {
	parent := filepath.Dir(dir)
	if parent == dir {
		return ""
	}
	if closed := closedParent(parent); closed != "" {
		return closed
	}
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrPermission) {
		return parent
	}
	return ""
}

// mountPoint returns the directory at which dir's file system begins.
func mountPoint(dir string) string {
	var st, above unix.Stat_t
	for parent := filepath.Dir(dir); parent != dir; parent = filepath.Dir(dir) {
		err := unix.Stat(dir, &st)
		if err == nil && (unix.Stat(parent, &above) != nil || above.Dev != st.Dev) {
			break
		}
		dir = parent
	}
	return dir
}

var plainWord = regexp.MustCompile(`^[0-9A-Za-z_./:@+-]+$`)

// quoted returns a word as a shell takes it.
func quoted(word string) string {
	if plainWord.MatchString(word) {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}
