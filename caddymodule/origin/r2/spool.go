package r2

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stevedores-org/nix-cache/caddymodule/internal/stall"
)

// chunkSize is that of the memory of parts. One that is being gathered takes
// what has come, to the next chunk.
const chunkSize = 1 << 20

// spool is where parts of all uploads lie from their first byte until they are
// sent for the last time: in memory up to a limit, and beyond it in files that
// have no name, as long as there is room for them. So a slow client takes no room
// from others but on disk.
//
// Where there is no room either way, uploads wait for memory. One of them at a
// time has a turn: it may exceed the limit by what a part needs, and so can
// complete its part, have it sent and give all its memory to the others. Without
// that, all could wait for each other, each with a part of a part. While the client
// of one that has a turn sends nothing, the next gets another, up to maxTurns.
type spool struct {
	dir   string
	limit int64 // of memory
	part  int64 // the most that a part has
	room  func(n int64) (release func(), err error)
	log   *slog.Logger
	disk  *stall.Watch
	sick  atomic.Bool // the disk took nothing the last time

	mu struct {
		sync.Mutex
		used    int64               // bytes of chunks that were given out
		onDisk  int64               // bytes of room that were taken
		free    [][]byte            // of chunkSize, until nothing is used
		turns   map[*part]time.Time // when those who have one took memory last
		changed chan struct{}       // closed and replaced when there is more room, or a turn has ended
	}
}

const (
	maxTurns = 4
	idleTurn = 3 * time.Second // after which a client is taken to send nothing
)

func newSpool(cfg Config) *spool {
	s := &spool{dir: cfg.SpoolDir, limit: cfg.SpoolMemory, part: cfg.PartSize, room: cfg.SpoolRoom, log: cfg.Logger}
	if s.room == nil {
		s.room = newRoom(DefaultSpoolDisk)
	}
	s.disk = stall.New(s.stalled)
	s.mu.changed = make(chan struct{})
	s.mu.turns = make(map[*part]time.Time)
	return s
}

func (s *spool) stalled(stalled bool) {
	if stalled {
		s.log.Error("the disk that parts of uploads lie on does not answer: parts stay in memory", "dir", s.dir)
		return
	}
	s.log.Info("the disk that parts of uploads lie on answers again", "dir", s.dir)
}

// take returns an empty chunk with room for size bytes, chunkSize at most, or
// nil where the limit leaves none.
func (s *spool) take(p *part, size int64) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.taken(p, size)
}

// taken is take, with the lock held.
func (s *spool) taken(p *part, size int64) []byte {
	limit := s.limit
	_, turn := s.mu.turns[p]
	if turn {
		limit += int64(len(s.mu.turns)) * s.part
	}
	if s.mu.used+size > limit {
		return nil
	}
	s.mu.used += size
	if turn {
		s.mu.turns[p] = time.Now()
	}
	if last := len(s.mu.free) - 1; size == chunkSize && last >= 0 {
		chunk := s.mu.free[last]
		s.mu.free = s.mu.free[:last]
		return chunk
	}
	return make([]byte, 0, size)
}

// await is take for a part that can have no room on disk. It waits until there is
// some in memory, or the part has the turn.
func (s *spool) await(ctx context.Context, p *part, size int64) ([]byte, error) {
	tick := time.NewTicker(idleTurn)
	defer tick.Stop()
	for {
		chunk, changed := s.takeTurn(p, size)
		if chunk != nil {
			return chunk, nil
		}
		select {
		case <-changed:
		case <-tick.C:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (s *spool) takeTurn(p *part, size int64) ([]byte, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	chunk := s.taken(p, size)
	if chunk == nil && s.freeTurn() {
		s.mu.turns[p] = time.Now()
		chunk = s.taken(p, size)
	}
	return chunk, s.mu.changed
}

// freeTurn reports whether another part may have a turn. It is called with the
// lock held.
func (s *spool) freeTurn() bool {
	for _, last := range s.mu.turns {
		if time.Since(last) < idleTurn {
			return false
		}
	}
	return len(s.mu.turns) < maxTurns
}

// endTurn is called when a part needs no more memory.
func (s *spool) endTurn(p *part) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, turn := s.mu.turns[p]; turn {
		delete(s.mu.turns, p)
		s.announce()
	}
}

// giveBack takes chunks back, for reuse unless a hanging write may still read
// them.
func (s *spool) giveBack(chunks [][]byte, hung bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, chunk := range chunks {
		s.mu.used -= int64(cap(chunk))
		if cap(chunk) == chunkSize && !hung {
			s.mu.free = append(s.mu.free, chunk[:0])
		}
	}
	if s.mu.used == 0 {
		s.mu.free = nil
	}
	s.announce()
}

// announce tells those who wait that they may find room. It is called with the
// lock held.
func (s *spool) announce() {
	close(s.mu.changed)
	s.mu.changed = make(chan struct{})
}

// takeDisk takes room for n bytes on disk.
func (s *spool) takeDisk(n int64) (release func(), err error) {
	var giveBack func()
	take := func() (err error) {
		giveBack, err = s.room(n)
		return err
	}
	if err := s.disk.Do(spoolPatience, take, func() { giveBack() }); err != nil {
		return nil, err
	}
	s.addOnDisk(n)
	return func() {
		giveBack()
		s.addOnDisk(-n)
	}, nil
}

func (s *spool) addOnDisk(n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.onDisk += n
}

// spoolPatience is how long a chunk may take to the disk.
const spoolPatience = 3 * time.Second

// diskTook notes whether the disk took a chunk, and logs when it begins to take
// none.
func (s *spool) diskTook(err error) {
	if sick := err != nil; s.sick.Swap(sick) == sick || !sick {
		return
	}
	s.log.Warn("no room on disk for parts of uploads: they wait for memory", "dir", s.dir, "error", err)
}

// SpoolBytes tells what parts of uploads that are not sent yet take up, in memory
// and on disk.
func (o *Origin) SpoolBytes() (memory, disk int64) {
	o.spool.mu.Lock()
	defer o.spool.mu.Unlock()
	return o.spool.mu.used, o.spool.mu.onDisk
}

// newRoom returns a Config.SpoolRoom for so many bytes.
func newRoom(limit int64) func(n int64) (release func(), err error) {
	var taken atomic.Int64
	return func(n int64) (func(), error) {
		if taken.Add(n) > limit {
			taken.Add(-n)
			return nil, errNoRoom
		}
		return func() { taken.Add(-n) }, nil
	}
}
