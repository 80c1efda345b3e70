package integration

import (
	"bytes"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"
)

// logLines collects what a process writes, line by line.
type logLines struct {
	mu struct {
		sync.Mutex
		partial []byte
		lines   []string
		changed chan struct{} // closed at the next line
	}
}

func newLogLines() *logLines {
	l := new(logLines)
	l.mu.changed = make(chan struct{})
	return l
}

func (l *logLines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.partial = append(l.mu.partial, p...)
	for {
		line, rest, ok := bytes.Cut(l.mu.partial, []byte("\n"))
		if !ok {
			return len(p), nil
		}
		l.mu.partial = bytes.Clone(rest)
		l.mu.lines = append(l.mu.lines, string(line))
		close(l.mu.changed)
		l.mu.changed = make(chan struct{})
	}
}

// snapshot returns the lines so far and a channel that is closed when there
// are more.
func (l *logLines) snapshot() ([]string, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mu.lines[:len(l.mu.lines):len(l.mu.lines)], l.mu.changed
}

// shownLines is how much of a log is shown: a long test's has a line for each of
// a hundred thousand requests.
const shownLines = 2000

func (l *logLines) String() string {
	lines, _ := l.snapshot()
	if left := len(lines) - shownLines; left > 0 {
		lines = append([]string{fmt.Sprintf("(%d lines before these)", left)}, lines[left:]...)
	}
	return strings.Join(lines, "\n")
}

// wait returns the first line that matches, from a line number on. It is
// false if the log's process ended or patience did before.
func (l *logLines) wait(from int, ended <-chan struct{}, match func(line string) bool) (string, bool) {
	deadline := time.After(patience)
	for {
		lines, changed := l.snapshot()
		for ; from < len(lines); from++ {
			if match(lines[from]) {
				return lines[from], true
			}
		}
		select {
		case <-changed:
		case <-ended:
			return "", false
		case <-deadline:
			return "", false
		}
	}
}

// check fails the test for what no run of a program may say.
func (l *logLines) check(tb testing.TB) {
	tb.Helper()
	lines, _ := l.snapshot()
	for _, line := range lines {
		if strings.Contains(line, "DATA RACE") || strings.Contains(line, "panic:") || strings.Contains(line, "fatal error:") {
			tb.Errorf("the log has %q", line)
		}
	}
}
