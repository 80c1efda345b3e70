package caddymodule

import (
	"context"
	"log/slog"
	"time"
)

// mostLines is how many lines with the same message a cache logs at once in a
// minute.
const mostLines = 10

// quietLog is the log of a cache: in an outage, or with a disk that is full, each
// request would have a line. It takes the first few lines with a message, and at
// the end of the minute the latest of the others, with how many there were as
// "more".
type quietLog struct {
	slog.Handler
	lines *alike // shared with what With makes of it
}

func newQuietLog(to slog.Handler) *quietLog { return &quietLog{to, &alike{again: mostLines}} }

// Handle implements slog.Handler.
func (l *quietLog) Handle(ctx context.Context, r slog.Record) error {
	if !l.lines.atOnce(r.Level.String()+" "+r.Message, mostLines, line{l.Handler, r}) {
		return nil
	}
	return l.Handler.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (l *quietLog) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &quietLog{l.Handler.WithAttrs(attrs), l.lines}
}

// WithGroup implements slog.Handler.
func (l *quietLog) WithGroup(name string) slog.Handler {
	return &quietLog{l.Handler.WithGroup(name), l.lines}
}

// end logs how many lines have been left out so far; none is from now on.
func (l *quietLog) end() { l.lines.end() }

// line is a line that was left out, and where it belongs.
type line struct {
	to     slog.Handler
	record slog.Record
}

func (l line) tell(count int) {
	r := l.record.Clone()
	r.Time = time.Now()
	r.AddAttrs(slog.Int("more", count))
	l.to.Handle(context.Background(), r) // whoever logged it has gone on without an error
}
