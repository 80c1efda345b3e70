package upload

import (
	"bufio"
	"context"
	"errors"
	"io"
	"io/fs"
	"sync"

	"github.com/stevedores-org/nix-cache/caddymodule/internal/content"
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
// process for those of uploads, whose clients may be slow, and of stored NARs.
var (
	unaskedPlaces = make(chan struct{}, 16)
	storedPlaces  = make(chan struct{}, 4)
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
	result chan content.Content // has one if the file was decompressed to its end
}

// measureWhile begins to measure what the caller reads from it. It ends early
// with the context.
func measureWhile(ctx context.Context, in io.Reader, path nix.CachePath) *measuring {
	r, w := io.Pipe()
	m := &measuring{in: in, pipe: w, result: make(chan content.Content, 1)}
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
		measured, err := content.Measure(ctx, buffered, c, unaskedWindow, func(size int64) error {
			if size > unaskedSize+unaskedRatio*file.size {
				return content.ErrTooLong
			}
			return nil
		})
		if err == nil {
			m.result <- measured
		}
	}()
	return m
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
func (m *measuring) end() (content.Content, bool) {
	m.pipe.CloseWithError(io.ErrUnexpectedEOF) // unless it has been read to its end
	c, ok := <-m.result
	return c, ok
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

// requireContent checks that the NAR decompresses to what the narinfo says.
func (r *Receiver) requireContent(ctx context.Context, n *nix.NARInfo) error {
	if n.Compression == nix.CompressionNone {
		return nil // the file is the NAR, and was hashed when it was uploaded
	}
	got, known := r.contents.get(n.NARPath())
	if !known {
		var err error
		if got, err = r.measureStored(ctx, n); err != nil {
			return err
		}
		r.contents.add(n.NARPath(), got)
	}
	return requireMatch(n, got, nil)
}

// requireMatch refuses a narinfo for what it tells wrongly of its NAR.
func requireMatch(n *nix.NARInfo, got content.Content, err error) error {
	if wrong := content.Mismatch(n, got, err); wrong != "" {
		return reject(Mismatch, "%s", wrong)
	}
	return nil
}

// measureStored measures a NAR that lies at the origin, once there is a place.
func (r *Receiver) measureStored(ctx context.Context, n *nix.NARInfo) (content.Content, error) {
	select {
	case storedPlaces <- struct{}{}:
		defer func() { <-storedPlaces }()
	case <-ctx.Done():
		return content.Content{}, ctx.Err()
	}
	_, body, err := r.Origin.Open(ctx, n.URL(), origin.OpenOptions{})
	if errors.Is(err, fs.ErrNotExist) {
		return content.Content{}, narMissing(n) // deleted since requireNAR
	}
	if err != nil {
		return content.Content{}, err
	}
	defer body.Close()
	in := &originBody{r: body}
	got, err := content.MeasureFor(ctx, n, in)
	switch {
	case ctx.Err() != nil:
		return content.Content{}, ctx.Err()
	case in.err != nil:
		return content.Content{}, &origin.UnavailableError{Op: "read", Path: n.URL(), Err: in.err}
	case err != nil:
		return content.Content{}, requireMatch(n, got, err)
	}
	return got, nil
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

// maxContents bounds the memory of contents, about 400 bytes each. A push sends
// each narinfo soon after its NAR.
const maxContents = 10_000

// contents remembers what NARs decompress to, the latest ones: it only spares
// measuring again. The paths tell the compression, too: the same bytes under
// another suffix are something else. Its zero value is ready for use.
type contents struct {
	mu struct {
		sync.Mutex
		known map[nix.CachePath]content.Content
		order []nix.CachePath // oldest first
	}
}

func (c *contents) get(nar nix.CachePath) (content.Content, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	got, ok := c.mu.known[nar]
	return got, ok
}

func (c *contents) add(nar nix.CachePath, got content.Content) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.known == nil {
		c.mu.known = make(map[nix.CachePath]content.Content)
	}
	if _, there := c.mu.known[nar]; !there {
		c.mu.order = append(c.mu.order, nar)
	}
	c.mu.known[nar] = got
	if len(c.mu.order) > maxContents {
		delete(c.mu.known, c.mu.order[0])
		c.mu.order = c.mu.order[1:]
	}
}
