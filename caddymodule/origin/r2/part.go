package r2

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"

	"github.com/stevedores-org/nix-cache/caddymodule/internal/stall"
)

var (
	errNoRoom = errors.New("parts of uploads take up all the space they may")
	errHung   = errors.New("an earlier write hangs")
)

// part is the body of one request. It is written once, then read as often as
// the request is sent, then released. Its first bytes may be in a file; what comes
// after them is in chunks, of chunkSize but for the last.
type part struct {
	ctx    context.Context // ends the waiting for room
	spool  *spool
	limit  int64 // the most bytes that it will have
	size   int64
	chunks [][]byte

	file  *os.File // nil as long as all is in memory
	filed int64    // bytes in it
	roomy int64    // bytes that there is room for on disk
	rooms []func() // give that back
	hung  bool     // a write to the file may still be under way
}

// Write implements [io.Writer]. It waits where there is no room.
func (p *part) Write(b []byte) (written int, err error) {
	for len(b) > 0 && err == nil {
		var n int
		n, err = p.put(b)
		p.size += int64(n)
		written += n
		b = b[n:]
	}
	return written, err
}

// put takes the first of these bytes.
func (p *part) put(b []byte) (int, error) {
	if n := p.fill(b); n > 0 {
		return n, nil
	}
	size := max(min(p.limit-p.size, chunkSize), 1)
	var chunk []byte
	if p.filed == 0 { // else it goes on in its file, and leaves memory to others
		chunk = p.spool.take(p, size)
	}
	if chunk == nil {
		n, err := p.spill(b[:min(len(b), copySize)])
		p.spool.diskTook(err)
		if err == nil {
			return n, nil
		}
		if chunk, err = p.spool.await(p.ctx, p, size); err != nil {
			return 0, fmt.Errorf("wait for memory for a part: %w", err)
		}
	}
	p.chunks = append(p.chunks, chunk)
	return p.fill(b), nil
}

// fill puts into the last chunk what it has room for.
func (p *part) fill(b []byte) int {
	if len(p.chunks) == 0 {
		return 0
	}
	last := &p.chunks[len(p.chunks)-1]
	n := min(len(b), cap(*last)-len(*last))
	*last = append(*last, b[:n]...)
	return n
}

// spill moves the chunks to the file, and b behind them. After an error all is as
// it was.
func (p *part) spill(b []byte) (int, error) {
	if p.hung {
		return 0, errHung
	}
	more := p.size - p.filed + int64(len(b))
	if err := p.takeRoom(more); err != nil {
		return 0, err
	}
	if err := p.writeFile(b); err != nil {
		return 0, err
	}
	p.filed += more
	p.spool.giveBack(p.chunks, false)
	p.spool.endTurn(p)
	p.chunks = nil
	return len(b), nil
}

// takeRoom makes sure that there is room for so many bytes more on disk. It takes
// as much as a chunk at least.
func (p *part) takeRoom(more int64) error {
	short := p.filed + more - p.roomy
	if short <= 0 {
		return nil
	}
	short = max(short, min(chunkSize, p.limit-p.roomy))
	room, err := p.spool.takeDisk(short)
	if err != nil {
		return err
	}
	p.roomy += short
	p.rooms = append(p.rooms, room)
	return nil
}

// copySize is how much is written to a file at a time beside the chunks.
const copySize = 256 << 10

// copies are for reuse.
var copies = sync.Pool{New: func() any { return new([copySize]byte) }}

// writeFile writes the chunks and b behind what is filed.
func (p *part) writeFile(b []byte) error {
	if p.file == nil {
		if err := p.openFile(); err != nil {
			return err
		}
	}
	own := copies.Get().(*[copySize]byte) // the write may go on after the caller has b back
	chunks := append(slices.Clip(p.chunks), own[:copy(own[:], b)])
	file, at := p.file, p.filed
	err := p.spool.disk.Do(spoolPatience, func() error { return writeAll(file, chunks, at) }, nil)
	if p.hung = errors.Is(err, stall.ErrStalled); !p.hung {
		copies.Put(own)
	}
	return err
}

func (p *part) openFile() error {
	var file *os.File
	open := func() (err error) {
		file, err = p.spool.file()
		return err
	}
	if err := p.spool.disk.Do(spoolPatience, open, func() { file.Close() }); err != nil {
		return err
	}
	p.file = file
	return nil
}

func writeAll(f *os.File, chunks [][]byte, at int64) error {
	for _, chunk := range chunks {
		n, err := f.WriteAt(chunk, at)
		if err != nil {
			return err
		}
		at += int64(n)
	}
	return nil
}

// file returns a new file that goes when it is closed, by whatever end.
func (s *spool) file() (*os.File, error) {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(s.dir, "part-")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// ReadAt implements [io.ReaderAt].
func (p *part) ReadAt(b []byte, off int64) (n int, err error) {
	if off < p.filed {
		n, err = p.file.ReadAt(b[:min(int64(len(b)), p.filed-off)], off)
		if err != nil {
			return n, err
		}
		off += int64(n)
	}
	for n < len(b) && off < p.size {
		at := off - p.filed
		read := copy(b[n:], p.chunks[at/chunkSize][at%chunkSize:])
		n += read
		off += int64(read)
	}
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

// body returns all of it, for one request after the other.
func (p *part) body() io.ReadSeeker { return io.NewSectionReader(p, 0, p.size) }

// release gives back what the part takes. It does so once.
func (p *part) release() {
	p.spool.giveBack(p.chunks, p.hung)
	p.spool.endTurn(p)
	p.chunks = nil
	if p.file != nil {
		p.spool.disk.Finish(spoolPatience, p.file.Close) // frees it, which may take as long as a write
		p.file = nil
	}
	for _, room := range p.rooms {
		room()
	}
	p.rooms = nil
}
