package caddymodule

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// progress shows on standard error how far a command has come: with a bar if
// that is a terminal, else with a line now and then. Results go to out.
type progress struct {
	out  io.Writer
	line format // of results
	err  io.Writer
	bar  *progressbar.ProgressBar // nil: no terminal
	next time.Time                // of the next line
}

const progressInterval = 10 * time.Second

func newProgress(out io.Writer, line format, stderr io.Writer) *progress {
	p := &progress{out: out, line: line, err: stderr, next: time.Now().Add(progressInterval)}
	if file, ok := stderr.(*os.File); ok && term.IsTerminal(int(file.Fd())) {
		p.bar = progressbar.NewOptions(progressSteps,
			progressbar.OptionSetWriter(stderr),
			progressbar.OptionSetWidth(20),
			progressbar.OptionThrottle(100*time.Millisecond),
			progressbar.OptionSetElapsedTime(true),
			progressbar.OptionSetPredictTime(true),
			progressbar.OptionClearOnFinish(),
		)
	}
	return p
}

const progressSteps = 1000

// show tells the position, from 0 to 1, and a text.
func (p *progress) show(position float64, text string) {
	if p.bar != nil {
		p.bar.Describe(text)
		_ = p.bar.Set(int(position * progressSteps))
		return
	}
	if now := time.Now(); now.After(p.next) {
		p.next = now.Add(progressInterval)
		fmt.Fprintf(p.err, "%.0f %%: %s\n", 100*position, text)
	}
}

// print writes a result.
func (p *progress) print(result fmt.Stringer) {
	p.clear()
	fmt.Fprintln(p.out, p.line(result))
}

// note writes a line for the operator.
func (p *progress) note(format string, args ...any) {
	p.clear()
	fmt.Fprintf(p.err, format+"\n", args...)
}

// noteEmpty says where nothing was found: mostly another directory was meant, such
// as that of the user whom the server runs as.
func (p *progress) noteEmpty(origin string) {
	p.note("there are no narinfos in %s", origin)
}

// clear takes the bar away, until the next show.
func (p *progress) clear() {
	if p.bar != nil {
		_ = p.bar.Clear()
	}
}
