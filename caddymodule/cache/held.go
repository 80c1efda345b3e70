package cache

import (
	"context"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// patience is how long a body at the origin waits for a client that doesn't
	// read, and crowdPatience how long while others wait for its place: to open
	// it anew costs an operation.
	patience      = 30 * time.Second
	crowdPatience = 250 * time.Millisecond

	// A client is slow that takes less than slowRate bytes a second, over
	// paceWindow at least.
	slowRate   = 1 << 20
	paceWindow = 2 * time.Second

	// A slow client is sent pieces of pieceSize bytes, read at the origin's
	// pace, of which there are maxPieces in memory. While all are in use, one
	// waits for its client for piecePatience.
	pieceSize     = 1 << 20
	maxPieces     = 64
	piecePatience = 5 * time.Second
)

// crowded reports whether others wait for the places that bodies at the origin
// take.
func (n *Namespace) crowded() bool { return n.policy.Waiting != nil && n.policy.Waiting() > 0 }

// bodyPatience is how long a body at the origin may wait for its client.
func (n *Namespace) bodyPatience() time.Duration {
	if n.crowded() {
		return crowdPatience
	}
	return patience
}

// passage is a stretch of a file that is under way: from the origin, or from
// memory.
type passage struct {
	io.ReadCloser
	at, end  int64                // offsets of its next byte, and behind its last
	patience func() time.Duration // how long it may wait for its client by now
}

// held keeps a passage between two reads. Where its client doesn't come back in
// time, it is closed, so that others can have what it takes up. One goroutine
// puts and takes.
type held struct {
	passage atomic.Pointer[passage]
	since   atomic.Int64 // in Unix nanoseconds, when the client went away; 0: not yet
	timer   *time.Timer
}

// put leaves a passage, or nil, until the client comes back.
func (h *held) put(p *passage) {
	h.since.Store(time.Now().UnixNano())
	if p == nil {
		return
	}
	if h.timer == nil {
		h.timer = time.AfterFunc(crowdPatience, h.expire)
	}
	h.passage.Store(p) // whoever sees it, sees the timer
	h.timer.Reset(crowdPatience)
}

// take returns the passage, if it is still there, and how long the client was
// away.
func (h *held) take() (*passage, time.Duration) {
	if h.timer != nil {
		h.timer.Stop()
	}
	return h.passage.Swap(nil), h.away()
}

func (h *held) away() time.Duration {
	since := h.since.Load()
	if since == 0 {
		return 0
	}
	return time.Duration(time.Now().UnixNano() - since)
}

// expire closes the passage if its time is over. What that is may change, so it
// looks again and again.
func (h *held) expire() {
	p := h.passage.Load()
	switch {
	case p == nil:
	case h.away() < p.patience():
		h.timer.Reset(crowdPatience)
	case h.passage.CompareAndSwap(p, nil):
		p.Close()
	}
}

func (h *held) close() error {
	if p, _ := h.take(); p != nil {
		return p.Close()
	}
	return nil
}

// pace tells how fast a client takes what it is sent.
type pace struct {
	away   time.Duration // what the client took between reads
	flowed int64         // bytes it has got
}

func (p *pace) slow() bool {
	return p.away >= crowdPatience && float64(p.flowed) < p.away.Seconds()*slowRate
}

// piece is a stretch of a file in memory. Behind its data comes err.
type piece struct {
	pool *pieces
	buf  *[pieceSize]byte
	data []byte
	err  error
}

func (p *piece) Read(b []byte) (int, error) {
	if len(p.data) == 0 {
		return 0, p.err
	}
	n := copy(b, p.data)
	p.data = p.data[n:]
	return n, nil
}

func (p *piece) Close() error {
	p.pool.free.Put(p.buf)
	p.pool.places.giveBack()
	return nil
}

// pieces are those of a cache.
type pieces struct {
	places places
	free   sync.Pool
}

func newPieces() *pieces {
	return &pieces{
		places: make(places, maxPieces),
		free:   sync.Pool{New: func() any { return new([pieceSize]byte) }},
	}
}

// take waits until there is a piece.
func (s *pieces) take(ctx context.Context) (*piece, error) {
	if err := s.places.take(ctx); err != nil {
		return nil, err
	}
	return &piece{pool: s, buf: s.free.Get().(*[pieceSize]byte)}, nil
}

// fill reads length bytes, or as many as there are before the body breaks off.
func (p *piece) fill(body io.Reader, length int64) {
	n, err := io.ReadFull(body, p.buf[:length])
	p.data, p.err = p.buf[:n], err
}

// patience is how long a piece may wait for its client: as long as there are
// others.
func (s *pieces) patience() time.Duration {
	if len(s.places) == cap(s.places) {
		return piecePatience
	}
	return time.Hour
}
