// Command testsummary reads the output of `go test -json` on its standard
// input and writes it for people: a line per package, the whole output of what
// failed, which tests took longest, and a last line that counts the tests:
//
//	N passed, N failed[, N skipped]
//
// The line {"Action":"go-test-failed"} says that `go test` itself ended with an
// error; where no test failed, that counts as one.
//
// Its exit status is 1 if a test or a build failed, or if no test ran.
package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

// event is one line of `go test -json`; see `go doc test2json` and
// `go help buildjson`.
type event struct {
	Action     string
	Package    string
	ImportPath string // of build events
	Test       string
	Output     string
	Elapsed    float64
}

func main() {
	s := newSummary(os.Stdout)
	if err := s.read(os.Stdin); err != nil {
		fmt.Fprintln(os.Stderr, "testsummary:", err)
		s.failed++
	}
	if !s.finish() {
		os.Exit(1)
	}
}

// summary counts tests. A test is in output from its start to its end.
type summary struct {
	out                     io.Writer
	passed, failed, skipped int
	goTestFailed            bool
	output                  map[test][]byte
	packages                map[string]*counts
	slow                    []slowTest // longest first
}

// slowTest is a test, its subtests included, that took longer than slowFrom.
type slowTest struct {
	name    string
	seconds float64
}

const (
	slowFrom  = 10 // seconds
	slowShown = 10 // tests
)

type test struct{ pkg, name string }

// counts are of one package.
type counts struct{ tests, failed int }

func newSummary(out io.Writer) *summary {
	return &summary{out: out, output: map[test][]byte{}, packages: map[string]*counts{}}
}

func (s *summary) read(r io.Reader) error {
	in := bufio.NewReader(r)
	for {
		line, err := in.ReadBytes('\n')
		if len(line) > 0 {
			s.line(line)
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// line takes what is not an event as output to show: `go test` complains in
// plain text about what it can't load.
func (s *summary) line(line []byte) {
	var e event
	if json.Unmarshal(line, &e) != nil {
		s.out.Write(line)
		return
	}
	s.event(e)
}

func (s *summary) event(e event) {
	t := test{e.Package, e.Test}
	switch e.Action {
	case "go-test-failed":
		s.goTestFailed = true
	case "build-output":
		fmt.Fprint(s.out, e.Output)
	case "run":
		s.output[t] = nil
	case "output":
		s.output[t] = append(s.output[t], e.Output...)
	case "pass", "fail", "skip":
		if e.Test == "" {
			s.endPackage(e)
		} else {
			s.endTest(t, e.Action)
			s.timeTest(e)
		}
	}
}

func (s *summary) endTest(t test, action string) {
	c := s.counts(t.pkg)
	c.tests++
	switch action {
	case "pass":
		s.passed++
	case "skip":
		s.skipped++
		s.out.Write(s.output[t])
	case "fail":
		s.failed++
		c.failed++
		s.out.Write(s.output[t])
	}
	delete(s.output, t)
}

func (s *summary) timeTest(e event) {
	if e.Elapsed < slowFrom || strings.Contains(e.Test, "/") {
		return
	}
	s.slow = append(s.slow, slowTest{e.Test, e.Elapsed})
	slices.SortStableFunc(s.slow, func(a, b slowTest) int { return cmp.Compare(b.seconds, a.seconds) })
	s.slow = s.slow[:min(len(s.slow), slowShown)]
}

// endPackage counts tests that a crash cut off as failed, and a package that
// failed by itself (its build, its TestMain) as one failed test.
func (s *summary) endPackage(e event) {
	c := s.counts(e.Package)
	for t := range s.output {
		if t.pkg == e.Package && t.name != "" {
			s.endTest(t, "fail")
		}
	}
	own := test{pkg: e.Package}
	if e.Action == "fail" {
		s.out.Write(s.output[own])
		if c.failed == 0 {
			s.failed++
			c.failed++
		}
	}
	delete(s.output, own)
	if c.tests > 0 || c.failed > 0 {
		fmt.Fprintf(s.out, "%-4s %s: %d tests, %d failed, %.1fs\n", e.Action, e.Package, c.tests, c.failed, e.Elapsed)
	}
}

func (s *summary) counts(pkg string) *counts {
	c := s.packages[pkg]
	if c == nil {
		c = new(counts)
		s.packages[pkg] = c
	}
	return c
}

// finish writes the last line and says whether all went well.
func (s *summary) finish() bool {
	if s.goTestFailed && s.failed == 0 {
		s.failed = 1
	}
	for _, t := range s.slow {
		fmt.Fprintf(s.out, "%6.1fs %s\n", t.seconds, t.name)
	}
	fmt.Fprintf(s.out, "%d passed, %d failed", s.passed, s.failed)
	if s.skipped > 0 {
		fmt.Fprintf(s.out, ", %d skipped", s.skipped)
	}
	fmt.Fprintln(s.out)
	return s.failed == 0 && s.passed > 0
}
