package upload

import (
	"bufio"
	"context"
	"errors"
	"io"
	"io/fs"
	"math"
	"sync"

	"github.com/stevedores-org/nix-cache/caddymodule/internal/content"
	"github.com/stevedores-org/nix-cache/caddymodule/internal/decompress"
	"github.com/stevedores-org/nix-cache/caddymodule/internal/fair"
	"github.com/stevedores-org/nix-cache/caddymodule/nix"
	"github.com/stevedores-org/nix-cache/caddymodule/origin"
)

// A NAR that is uploaded is decompressed on the way, when nobody knows yet how
// large it should be, to this many bytes and so many times what was read of the
// file. One of more is measured again when its narinfo comes, whose signature
// vouches for the size. So is one that asks for a larger window than xz and zstd
// do by default, and one that comes while there is no place.
const (
	unaskedSize   = 64 << 20
	unaskedRatio  = 100
	unaskedWindow = 16 << 20
)

// Decoders take memory for their windows, and CPU: these are the places in the
// process for those of uploads, whose clients may be slow, and of stored NARs. One
// client's narinfos of large NARs don't take all of these.
var (
	unaskedPlaces = make(chan struct{}, 16)
	storedPlaces  = fair.New(fair.Bounds{Places: 4, Each: 3, Waiting: 1 << 16})
)

// counted counts what is read through it.
type counted struct {
	r    io.Reader
	size int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.size += int64(n)
	return n, err
}

// measuring measures a NAR while it is read through Read.
type measuring struct {
	in     io.Reader
	pipe   *io.PipeWriter
	result chan measurement // has one if something is known
}

// measureWhile begins to measure what the caller reads from it. It ends early
// with the context.
func measureWhile(ctx context.Context, in io.Reader, path nix.CachePath) *measuring {
	r, w := io.Pipe()
	m := &measuring{in: in, pipe: w, result: make(chan measurement, 1)}
	go func() {
		defer close(m.result)
		defer r.CloseWithError(errMeasured) // lets the caller read on
		file := &counted{r: r}
		buffered := bufio.NewReaderSize(file, copyBuffer)
		c := compressionOf(path, buffered)
		if c == nix.CompressionNone {
			return // the file is the NAR
		}
		select {
		case unaskedPlaces <- struct{}{}:
			defer func() { <-unaskedPlaces }()
		default:
			return
		}
		measured, err := content.Measure(ctx, buffered, c, unaskedWindow, within(file, 0))
		if err == nil || errors.Is(err, content.ErrTooLong) {
			m.result <- measurement{measured, err, unaskedSize}
		}
	}()
	return m
}

// within has what a file decompresses to end where it is larger than any narinfo
// should say: how much is known of it then answers for smaller claims.
func within(file *counted, most int64) func(size int64) error {
	return func(size int64) error {
		if size > max(most, unaskedSize+unaskedRatio*file.size) {
			return content.ErrTooLong
		}
		return nil
	}
}

var errMeasured = errors.New("measured")

func (m *measuring) Read(p []byte) (int, error) {
	n, err := m.in.Read(p)
	if n > 0 {
		_, _ = m.pipe.Write(p[:n]) // an error: measured as far as it goes
	}
	if err != nil {
		m.pipe.CloseWithError(err) // io.EOF is the end
	}
	return n, err
}

// end waits for the result; not ok if there is none.
func (m *measuring) end() (measurement, bool) {
	m.pipe.CloseWithError(io.ErrUnexpectedEOF) // unless it has been read to its end
	got, ok := <-m.result
	return got, ok
}

// compressionOf tells from a NAR's name how it is compressed, and where the name
// leaves it open from its first bytes.
func compressionOf(path nix.CachePath, in *bufio.Reader) nix.Compression {
	c := path.Compression()
	if c != nix.CompressionNone {
		return c
	}
	const gzipMagic = "\x1f\x8b"
	if magic, _ := in.Peek(len(gzipMagic)); string(magic) == gzipMagic {
		return nix.CompressionGzip
	}
	return nix.CompressionNone
}

// requireContent checks that the NAR decompresses to what the narinfo says. from is
// whose narinfo it is.
func (r *Receiver) requireContent(ctx context.Context, n *nix.NARInfo, from string) error {
	if n.Compression == nix.CompressionNone {
		return nil // the file is the NAR, and was hashed when it was uploaded
	}
	got, err := r.contentOf(ctx, n, from)
	if err != nil {
		return err
	}
	return requireMatch(n, got.content, got.err)
}

// contentOf returns what answers for what a narinfo says. A file is read once,
// however many ask about it and whatever they claim.
func (r *Receiver) contentOf(ctx context.Context, n *nix.NARInfo, from string) (measurement, error) {
	path := n.NARPath()
	for {
		got, underWay := r.contents.claim(path, n.NARSize)
		switch {
		case got != nil:
			return *got, nil
		case underWay == nil:
			defer r.contents.release(path)
			got, err := r.measureStored(ctx, n, from)
			if err == nil {
				r.contents.add(path, got)
			}
			return got, err
		}
		select {
		case <-underWay:
		case <-ctx.Done():
			return measurement{}, ctx.Err()
		}
	}
}

// requireMatch refuses a narinfo for what it tells wrongly of its NAR.
func requireMatch(n *nix.NARInfo, got content.Content, err error) error {
	if wrong := content.Mismatch(n, got, err); wrong != "" {
		return reject(Mismatch, "%s", wrong)
	}
	return nil
}

// measureStored measures a NAR that lies at the origin, once there is a place. An
// error is the origin's or the client's; the decoder's is in the measurement.
func (r *Receiver) measureStored(ctx context.Context, n *nix.NARInfo, from string) (measurement, error) {
	giveBack, err := storedPlaces.Take(ctx, from)
	if err != nil {
		return measurement{}, err
	}
	defer giveBack()
	_, body, err := r.Origin.Open(ctx, n.URL(), origin.OpenOptions{})
	if errors.Is(err, fs.ErrNotExist) {
		return measurement{}, narMissing(n) // deleted since requireNAR
	}
	if err != nil {
		return measurement{}, err
	}
	defer body.Close()
	in := &originBody{r: body}
	file := &counted{r: in}
	most := 2 * min(n.NARSize, math.MaxInt64/2) // or claims that grow would have it read again and again
	got, err := content.Measure(ctx, file, n.Compression, decompress.MaxWindow, within(file, most))
	switch {
	case ctx.Err() != nil:
		return measurement{}, ctx.Err()
	case in.err != nil:
		return measurement{}, &origin.UnavailableError{Op: "read", Path: n.URL(), Err: in.err}
	}
	return measurement{got, err, max(most, unaskedSize)}, nil
}

// originBody tells the origin's failures from a decoder's.
type originBody struct {
	r   io.Reader
	err error
}

func (b *originBody) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if err != nil && err != io.EOF {
		b.err = err
	}
	return n, err
}

// measurement is what is known of a NAR's file.
type measurement struct {
	content content.Content // unless there is an error
	err     error           // the decoder's, or content.ErrTooLong
	beyond  int64           // with that, it decompresses to more than so many bytes
}

// answers reports whether it is enough to judge a narinfo with this NarSize.
func (m measurement) answers(narSize int64) bool {
	return !errors.Is(m.err, content.ErrTooLong) || narSize <= m.beyond
}

// maxContents bounds the memory of contents, about 500 bytes each. A push sends
// each narinfo soon after its NAR.
const maxContents = 10_000

// contents remembers what NARs decompress to, or that they don't, the latest ones:
// it only spares measuring again. The paths tell the compression, too: the same
// bytes under another suffix are something else, and of those that have none, only
// gzip is measured. Its zero value is ready for use.
type contents struct {
	mu struct {
		sync.Mutex
		known    map[nix.CachePath]measurement
		order    []nix.CachePath                 // oldest first
		underWay map[nix.CachePath]chan struct{} // closed at the end
	}
}

// claim returns what is known of a NAR, if it answers for this NarSize; else what
// is closed when whoever measures it has ended, or nothing if nobody does: then the
// caller does, and calls release.
func (c *contents) claim(nar nix.CachePath, narSize int64) (known *measurement, underWay <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if got, ok := c.mu.known[nar]; ok && got.answers(narSize) {
		return &got, nil
	}
	if ended, ok := c.mu.underWay[nar]; ok {
		return nil, ended
	}
	if c.mu.underWay == nil {
		c.mu.underWay = make(map[nix.CachePath]chan struct{})
	}
	c.mu.underWay[nar] = make(chan struct{})
	return nil, nil
}

func (c *contents) release(nar nix.CachePath) {
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.mu.underWay[nar])
	delete(c.mu.underWay, nar)
}

func (c *contents) get(nar nix.CachePath) (measurement, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	got, ok := c.mu.known[nar]
	return got, ok
}

func (c *contents) add(nar nix.CachePath, got measurement) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.known == nil {
		c.mu.known = make(map[nix.CachePath]measurement)
	}
	old, there := c.mu.known[nar]
	switch {
	case !there:
		c.mu.order = append(c.mu.order, nar)
	case old.answers(got.beyond) && !got.answers(math.MaxInt64):
		return // that says less
	}
	c.mu.known[nar] = got
	if len(c.mu.order) > maxContents {
		delete(c.mu.known, c.mu.order[0])
		c.mu.order = c.mu.order[1:]
	}
}
