package r2

import (
	"fmt"
	"io"
	"os"
	"sync"
)

// chunkSize is that of the memory of parts. One that is being gathered takes
// what has come, to the next chunk.
const chunkSize = 1 << 20

// spool is where parts of all uploads lie from their first byte until they are
// sent for the last time: in memory up to a limit, and beyond it in files that
// have no name. So nobody waits for room, and a slow client takes none from
// others but on disk.
type spool struct {
	dir   string
	limit int64
	mu    struct {
		sync.Mutex
		used int64    // bytes of chunks that were given out
		free [][]byte // of chunkSize, until nothing is used
	}
}

func newSpool(dir string, limit int64) *spool { return &spool{dir: dir, limit: limit} }

// take returns an empty chunk with room for size bytes, chunkSize at most, or
// nil where the limit leaves none.
func (s *spool) take(size int64) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.used+size > s.limit {
		return nil
	}
	s.mu.used += size
	if last := len(s.mu.free) - 1; size == chunkSize && last >= 0 {
		chunk := s.mu.free[last]
		s.mu.free = s.mu.free[:last]
		return chunk
	}
	return make([]byte, 0, size)
}

func (s *spool) giveBack(chunks [][]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, chunk := range chunks {
		s.mu.used -= int64(cap(chunk))
		if cap(chunk) == chunkSize {
			s.mu.free = append(s.mu.free, chunk[:0])
		}
	}
	if s.mu.used == 0 {
		s.mu.free = nil
	}
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

// part is the body of one request. It is written once, then read as often as
// the request is sent, then released.
type part struct {
	spool  *spool
	limit  int64    // the most bytes that it will have
	chunks [][]byte // of chunkSize but for the last
	file   *os.File // in place of chunks, once there was none to have
	size   int64
}

func (p *part) Write(b []byte) (written int, err error) {
	for len(b) > 0 && err == nil {
		var n int
		if p.file != nil || !p.grow() {
			n, err = p.spill(b)
		} else {
			n = p.fill(b)
		}
		p.size += int64(n)
		written += n
		b = b[n:]
	}
	return written, err
}

// grow sees to it that the last chunk has room.
func (p *part) grow() bool {
	if last := len(p.chunks) - 1; last >= 0 && len(p.chunks[last]) < cap(p.chunks[last]) {
		return true
	}
	chunk := p.spool.take(max(min(p.limit-p.size, chunkSize), 1))
	if chunk == nil {
		return false
	}
	p.chunks = append(p.chunks, chunk)
	return true
}

// fill puts into the last chunk what it has room for.
func (p *part) fill(b []byte) int {
	last := &p.chunks[len(p.chunks)-1]
	n := min(len(b), cap(*last)-len(*last))
	*last = append(*last, b[:n]...)
	return n
}

// spill writes to the file, to which the chunks go first.
func (p *part) spill(b []byte) (int, error) {
	if p.file == nil {
		if err := p.moveToFile(); err != nil {
			return 0, fmt.Errorf("spool a part on disk: %w", err)
		}
	}
	n, err := p.file.Write(b)
	if err != nil {
		err = fmt.Errorf("spool a part on disk: %w", err)
	}
	return n, err
}

func (p *part) moveToFile() error {
	f, err := p.spool.file()
	if err != nil {
		return err
	}
	for _, chunk := range p.chunks {
		if _, err := f.Write(chunk); err != nil {
			f.Close()
			return err
		}
	}
	p.spool.giveBack(p.chunks)
	p.chunks, p.file = nil, f
	return nil
}

// ReadAt implements [io.ReaderAt].
func (p *part) ReadAt(b []byte, off int64) (n int, err error) {
	if p.file != nil {
		return p.file.ReadAt(b, off)
	}
	for n < len(b) && off < p.size {
		read := copy(b[n:], p.chunks[off/chunkSize][off%chunkSize:])
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
	p.spool.giveBack(p.chunks)
	p.chunks = nil
	if p.file != nil {
		p.file.Close()
		p.file = nil
	}
}
