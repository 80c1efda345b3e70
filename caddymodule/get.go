package caddymodule

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/stevedores-org/nix-cache/caddymodule/cache"
	"github.com/stevedores-org/nix-cache/caddymodule/nix"
)

// get answers GET and HEAD of a file.
func (h *Handler) get(a *answer) {
	if err := h.confirm(a); err != nil {
		h.fail(a, err)
		return
	}
	if a.r.Method == http.MethodHead || a.r.Header.Get("If-None-Match") != "" || a.hasInvalidRange() {
		if done := h.getHead(a); done {
			return
		}
	}
	o, err := h.files.Open(a.context(), a.path, a.wanted())
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			h.noteMissing(a.path)
		}
		h.fail(a, err)
		return
	}
	defer o.Close()
	h.noteNARInfo(a.path, o)
	counters := h.metrics.found(a.path.Kind(), a.r.Method, o.Result)
	a.seconds = counters.seconds
	h.setFileHeaders(a.w.Header(), a.path.Kind(), o.Info, h.statuses.found[o.Result])
	sent := a.send(o)
	counters.bytes.Add(float64(sent))
	if a.path.Kind() == nix.KindNAR && a.status == http.StatusOK && sent == o.Size {
		h.files.Delivered(a.path, a.client())
	}
}

// getHead answers what needs no body, and so must not begin a fill: HEAD, a GET
// whose validator still holds, and one whose Range is refused whatever the size.
func (h *Handler) getHead(a *answer) (done bool) {
	info, result, err := h.files.Stat(a.context(), a.path)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			h.missing.doubtPromised(a.path)
		}
		h.fail(a, err)
		return true
	}
	unchanged := a.unchanged(info.Tag)
	if a.r.Method != http.MethodHead && !unchanged && !a.hasInvalidRange() {
		return false
	}
	a.seconds = h.metrics.found(a.path.Kind(), a.r.Method, result).seconds
	status := h.statuses.found[result]
	if result == cache.Miss {
		status = h.statuses.described
	}
	h.setFileHeaders(a.w.Header(), a.path.Kind(), info, status)
	if unchanged {
		a.notModified()
		return true
	}
	a.sendContent(&cache.Object{Info: info, Body: &sizeOnly{size: info.Size}})
	return true
}

// hasInvalidRange reports whether the request's Range is refused. Beside an
// If-Range it may not count.
func (a *answer) hasInvalidRange() bool {
	field := a.r.Header.Get("Range")
	return field != "" && a.r.Header.Get("If-Range") == "" && parseRange(field).invalid
}

// unchanged reports whether 304 is the answer to the request. Where it is, no
// other reading of If-None-Match is asked for. One beside an If-Match, which
// comes first, is left to http.ServeContent.
func (a *answer) unchanged(tag string) bool {
	return a.r.Header.Get("If-Match") == "" && noneMatches(a.r.Header.Get("If-None-Match"), tag)
}

// notModified answers that the client's copy is good. The headers of the file
// are set.
func (a *answer) notModified() {
	a.w.Header().Del("Content-Type") // there is no content
	a.status = http.StatusNotModified
	a.w.WriteHeader(a.status)
}

// noneMatches reports whether an If-None-Match names the tag.
func noneMatches(header, tag string) bool {
	for candidate := range strings.SplitSeq(header, ",") {
		candidate = strings.TrimPrefix(strings.TrimSpace(candidate), "W/")
		if candidate == "*" || candidate == `"`+tag+`"` {
			return true
		}
	}
	return false
}

// send answers GET with an open file, and returns how many bytes of it were
// sent. Whole files and their tails, which is what Nix asks for, take the
// shortest way; the rest is http.ServeContent's.
func (a *answer) send(o *cache.Object) int64 {
	from, isPart, ok := tailOffset(a.r.Header, o.Size)
	if !ok {
		return a.sendContent(o)
	}
	header := a.w.Header()
	header.Set("Content-Length", strconv.FormatInt(o.Size-from, 10))
	a.status = http.StatusOK
	if isPart {
		a.status = http.StatusPartialContent
		header.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, o.Size-1, o.Size))
	}
	a.w.WriteHeader(a.status)
	sent := a.copyFrom(o, from)
	if sent < o.Size-from {
		abort()
	}
	return sent
}

// conditions are the headers that make a GET conditional.
var conditions = [...]string{"If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since", "If-Range"}

func conditional(header http.Header) bool {
	return slices.ContainsFunc(conditions[:], func(name string) bool { return len(header[name]) > 0 })
}

// wanted is what the request asks for, as far as that can be told before the
// file's size is known.
func (a *answer) wanted() cache.Wanted {
	var want cache.Wanted
	if a.path.Kind() == nix.KindNAR { // for others it makes no difference
		want.Client = a.client()
	}
	asked := parseRange(a.r.Header.Get("Range"))
	if len(asked.specs) != 1 || conditional(a.r.Header) {
		return want
	}
	switch spec := asked.specs[0]; {
	case spec.first < 0 || spec.last == math.MaxInt64: // the size has to be known for it
	case spec.last < 0:
		want.Offset = spec.first
	default:
		want.Offset, want.Length = spec.first, spec.last-spec.first+1
	}
	return want
}

// tailOffset returns where the answer to a request without conditions begins, and
// whether it is a part of the file, if it reaches to the end; not ok for all other
// requests.
func tailOffset(header http.Header, size int64) (from int64, isPart, ok bool) {
	if conditional(header) {
		return 0, false, false
	}
	ranges, ok := parseRange(header.Get("Range")).of(size)
	if len(ranges) == 0 {
		return 0, false, ok
	}
	return ranges[0].from, true, len(ranges) == 1 && ranges[0].to == size
}

// chunk is the size of the writes to a client where the kernel can't do the
// copying: the most that Caddy's writer takes at a time. Over TLS and HTTP/2
// larger ones gain nothing, and io.Copy's of 32 KiB cost half as much again,
// since Caddy's writer allocates a buffer for each two of them.
const chunk = caddyhttp.DefaultMaxWriteChunk

// chunks are for reuse.
var chunks = sync.Pool{New: func() any { return new([chunk]byte) }}

// copyFrom sends the file from an offset on, and returns how much of it went.
// Why it was not all of it makes no difference.
func (a *answer) copyFrom(o *cache.Object, from int64) (sent int64) {
	if o.Bytes != nil {
		n, _ := a.w.Write(o.Bytes[from:])
		return int64(n)
	}
	file, local := o.Body.(*os.File)
	if local && a.plain() {
		if _, err := file.Seek(from, io.SeekStart); err != nil {
			return 0
		}
		// The file itself, not a reader around it: only so Caddy's writer
		// can leave the copying to the kernel. If it ends early, the disk may
		// be to blame, and what follows finds out.
		sent, _ = io.Copy(a.w, file)
		if from+sent == o.Size {
			return sent
		}
	}
	body, err := o.Resume(from, from+sent)
	if err != nil {
		return sent
	}
	// Write by write, since Caddy's ReadFrom counts the time that the source
	// takes as the client's.
	w := struct{ io.Writer }{a.w}
	if !local {
		w.Writer = &promptWriter{w: a.w}
	}
	buf := chunks.Get().(*[chunk]byte)
	defer chunks.Put(buf)
	more, _ := io.CopyBuffer(w, struct{ io.Reader }{body}, buf[:])
	return sent + more
}

// promptWriter has the first bytes sent at once: those of a file that comes
// from far away may be so few that net/http would wait for more.
type promptWriter struct {
	w       http.ResponseWriter
	flushed bool
}

func (p *promptWriter) Write(b []byte) (int, error) {
	n, err := p.w.Write(b)
	if err == nil && !p.flushed {
		p.flushed = true
		http.NewResponseController(p.w).Flush() // the next write tells what is wrong, if anything
	}
	return n, err
}

// plain reports whether the kernel can copy from a file to the client.
func (a *answer) plain() bool { return a.r.TLS == nil && a.r.ProtoMajor == 1 }

// sendContent leaves conditions, ranges and HEAD to http.ServeContent.
func (a *answer) sendContent(o *cache.Object) int64 {
	content, err := o.Resume(0, 0)
	if err != nil {
		abort()
	}
	w := &countingWriter{ResponseWriter: a.w, status: http.StatusOK}
	body := &watchedBody{ReadSeeker: content, size: o.Size}
	http.ServeContent(w, withPlainRange(a.r, o.Size), "", time.Time{}, body)
	a.status = w.status
	if body.err != nil {
		abort()
	}
	return w.sent
}

// abort ends a response that can't be completed so that the client notices.
func abort() { panic(http.ErrAbortHandler) }

// countingWriter notes what passes. It has no ReadFrom: see copyFrom.
type countingWriter struct {
	http.ResponseWriter
	status int
	sent   int64
}

func (w *countingWriter) WriteHeader(status int) {
	w.status = status
	if status >= http.StatusBadRequest {
		dropFileHeaders(w.Header(), status)
	}
	w.ResponseWriter.WriteHeader(status)
}

// dropFileHeaders keeps proxies from taking a refusal for the file, and for as
// long as the file is good. http.ServeContent sees to some of it for some
// refusals.
func dropFileHeaders(header http.Header, status int) {
	header.Set("Cache-Control", "no-store")
	header.Del("Etag")
	if status == http.StatusPreconditionFailed { // has no text
		header.Del("Content-Type")
	}
}

func (w *countingWriter) Write(p []byte) (int, error) {
	n, err := w.ResponseWriter.Write(p)
	w.sent += int64(n)
	return n, err
}

// watchedBody notes what goes wrong with a read, which http.ServeContent drops:
// an error, or an end that comes before the size.
type watchedBody struct {
	io.ReadSeeker
	size, at int64
	err      error
}

func (b *watchedBody) Read(p []byte) (int, error) {
	n, err := b.ReadSeeker.Read(p)
	b.at += int64(n)
	if err == io.EOF && b.at < b.size {
		err = io.ErrUnexpectedEOF
	}
	if err != nil && err != io.EOF {
		b.err = err
	}
	return n, err
}

func (b *watchedBody) Seek(offset int64, whence int) (at int64, err error) {
	b.at, err = b.ReadSeeker.Seek(offset, whence)
	return b.at, err
}

// sizeOnly stands for a file of which nothing is read.
type sizeOnly struct{ size, at int64 }

func (s *sizeOnly) Read([]byte) (int, error) {
	return 0, errors.New("read of a file that was only described")
}

func (s *sizeOnly) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += s.at
	case io.SeekEnd:
		offset += s.size
	}
	s.at = offset
	return offset, nil
}
