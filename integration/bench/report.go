package main

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"time"
)

// report is what a run found.
type report struct {
	checks []check
	tables []table
	notes  []string
}

// check is a figure to reach.
type check struct {
	what, measured, figure string
	reached                bool
}

type table struct {
	title  string
	header []string
	rows   [][]string
}

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

func (r *report) atMost(what string, got, limit float64, unit string) {
	r.checks = append(r.checks, check{what, amount(got, unit), "≤ " + amount(limit, unit), got <= limit})
}

func (r *report) atLeast(what string, got, limit float64, unit string) {
	r.checks = append(r.checks, check{what, amount(got, unit), "≥ " + amount(limit, unit), got >= limit})
}

func (r *report) note(format string, args ...any) {
	r.notes = append(r.notes, fmt.Sprintf(format, args...))
}

// addNAR adds the table of those who serve a hot NAR.
func (r *report) addNAR(title string, all []series, base int) {
	t := table{title: title, header: []string{"", "CPU per GB", "× " + all[base].name, "MB/s", "p50", "p99"}}
	for _, s := range all {
		t.add(s.name, fmt.Sprintf("%.3f s", s.cpuPerGB()), ratio(s.cpuPerGB()/all[base].cpuPerGB()),
			fmt.Sprintf("%.0f", s.byteRate()), millis(s.latency(0.5)), millis(s.latency(0.99)))
	}
	r.tables = append(r.tables, t)
}

func ratio(x float64) string { return fmt.Sprintf("%.2f", x) }

func amount(x float64, unit string) string { return strings.TrimSpace(number(x) + " " + unit) }

// number has three significant digits, without an exponent.
func number(x float64) string {
	switch {
	case x >= 100:
		return fmt.Sprintf("%.0f", x)
	case x >= 10:
		return strings.TrimSuffix(fmt.Sprintf("%.1f", x), ".0")
	default:
		text := fmt.Sprintf("%.3f", x)
		return strings.TrimSuffix(strings.TrimRight(text, "0"), ".")
	}
}

func millis(d time.Duration) string {
	ms := float64(d.Microseconds()) / 1000
	if ms < 10 {
		return fmt.Sprintf("%.2f ms", ms)
	}
	return fmt.Sprintf("%.0f ms", ms)
}

func (r *report) markdown(machine string, took time.Duration) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Measured on %s, in %.1f minutes. %s\n\n", time.Now().UTC().Format(time.DateOnly), took.Minutes(), machine)
	figures := table{header: []string{"figure", "measured", "to reach", ""}}
	for _, c := range r.checks {
		mark := "reached"
		if !c.reached {
			mark = "**missed**"
		}
		figures.add(c.what, c.measured, c.figure, mark)
	}
	figures.write(&b)
	for _, t := range r.tables {
		fmt.Fprintf(&b, "%s:\n\n", t.title)
		t.write(&b)
	}
	b.WriteString(strings.Join(r.notes, "\n"))
	return strings.TrimRight(b.String(), "\n") + "\n"
}

func (t table) write(b *strings.Builder) {
	line := func(cells []string) { b.WriteString("| " + strings.Join(cells, " | ") + " |\n") }
	line(t.header)
	b.WriteString("|---|" + strings.Repeat("---:|", len(t.header)-1) + "\n")
	for _, row := range t.rows {
		line(row)
	}
	b.WriteString("\n")
}

const (
	sectionBegin = "<!-- bench.sh writes from here -->\n"
	sectionEnd   = "<!-- to here -->\n"
)

// rewriteReadme puts the section between its two comments.
func rewriteReadme(path, section string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	changed, err := replaceSection(string(text), section)
	if err != nil {
		return fmt.Errorf("rewrite %s: %w", path, err)
	}
	return os.WriteFile(path, []byte(changed), 0o644)
}

func replaceSection(text, section string) (string, error) {
	before, rest, ok := strings.Cut(text, sectionBegin)
	if !ok {
		return "", fmt.Errorf("it has no line %q", strings.TrimSpace(sectionBegin))
	}
	_, after, ok := strings.Cut(rest, sectionEnd)
	if !ok {
		return "", fmt.Errorf("it has no line %q", strings.TrimSpace(sectionEnd))
	}
	return before + sectionBegin + "\n" + section + "\n" + sectionEnd + after, nil
}

// describeMachine tells what the figures hold for.
func describeMachine() string {
	return fmt.Sprintf("%s, %d cores: servers on one, their clients on the other; Linux %s, %s, nginx %s, Varnish %s.",
		cpuModel(), cores(), firstMatch(`\S+`, "uname", "-r"), runtime.Version(),
		firstMatch(`[\d.]+$`, "nginx", "-v"), firstMatch(`[\d.]+`, "varnishd", "-V"))
}

func cpuModel() string {
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return "an unknown processor"
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if key, value, ok := strings.Cut(lines.Text(), ":"); ok && strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

// cores counts the machine's, of which this program may use some only.
func cores() int {
	text, _ := os.ReadFile("/proc/cpuinfo")
	return strings.Count(string(text), "processor\t:")
}

func firstMatch(pattern, command string, args ...string) string {
	out, _ := exec.Command(command, args...).CombinedOutput()
	return regexp.MustCompile(pattern).FindString(strings.TrimSpace(string(out)))
}
