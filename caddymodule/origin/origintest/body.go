package origintest

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"slices"

	"github.com/stevedores-org/nix-cache/caddymodule/origin"
)

// spoil is a fault of the next bodies of a path.
type spoil struct {
	path  string
	left  int   // bodies still to be spoilt
	cut   int64 // the body breaks off after this many bytes; -1: never
	flips int64 // the object's byte at this offset is inverted; -1: none
}

// CutBody makes the next times bodies of path (any path if it is "") break off
// after n bytes with an error that is [io.ErrUnexpectedEOF].
func (m *Memory) CutBody(path string, n int64, times int) {
	m.addSpoil(&spoil{path: path, left: times, cut: n, flips: -1})
}

// FlipByte makes the next times bodies of path (any path if it is "") lie: the
// object's byte at offset comes with all its bits inverted. Bodies of ranges
// without that byte count too.
func (m *Memory) FlipByte(path string, offset int64, times int) {
	m.addSpoil(&spoil{path: path, left: times, cut: -1, flips: offset})
}

func (m *Memory) addSpoil(s *spoil) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mu.spoils = append(m.mu.spoils, s)
}

// body reads data from offset next on.
type body struct {
	m      *Memory
	ctx    context.Context
	path   string
	data   []byte
	next   int64
	cut    int64 // offset at which it breaks off, or -1
	flips  []int64
	closed bool
}

func (m *Memory) newBody(ctx context.Context, path string, data []byte, begin int64) *body {
	b := &body{m: m, ctx: ctx, path: path, data: data, next: begin, cut: -1}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range m.mu.spoils {
		if s.left == 0 || s.path != "" && s.path != path {
			continue
		}
		s.left--
		if s.cut >= 0 {
			b.cut = begin + s.cut
		}
		if s.flips >= 0 {
			b.flips = append(b.flips, s.flips)
		}
	}
	return b
}

// Read returns bytes up to the next gate, cut or the end, whichever is first.
func (b *body) Read(p []byte) (int, error) {
	if b.closed {
		return 0, fmt.Errorf("read %s: %w", b.path, fs.ErrClosed)
	}
	limit := b.pass(b.next + int64(len(p)))
	if err := ended(b.ctx, "open", b.path); err != nil {
		return 0, err
	}
	if b.cut >= 0 && b.next >= b.cut {
		return 0, &origin.UnavailableError{Op: "open", Path: b.path, Err: io.ErrUnexpectedEOF}
	}
	if b.next >= int64(len(b.data)) {
		return 0, io.EOF
	}
	if b.cut >= 0 {
		limit = min(limit, b.cut)
	}
	n := copy(p, b.data[b.next:min(limit, int64(len(b.data)))])
	b.flip(p[:n])
	b.next += int64(n)
	return n, nil
}

// pass waits at the gates that stand at the next byte, and returns the offset
// of the first gate behind it, at most limit.
func (b *body) pass(limit int64) int64 {
	b.m.mu.Lock()
	gates := slices.Clone(b.m.mu.gates)
	b.m.mu.Unlock()
	for _, g := range gates {
		if !g.holds("", b.path) {
			continue
		}
		switch {
		case g.offset == b.next:
			g.wait(b.ctx)
		case g.offset > b.next:
			limit = min(limit, g.offset)
		}
	}
	return limit
}

func (b *body) flip(p []byte) {
	for _, offset := range b.flips {
		if i := offset - b.next; i >= 0 && i < int64(len(p)) {
			p[i] ^= 0xff
		}
	}
}

func (b *body) Close() error {
	b.closed = true
	return nil
}
