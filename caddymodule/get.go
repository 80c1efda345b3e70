package caddymodule

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/stevedores-org/nix-cache/caddymodule/cache"
	"github.com/stevedores-org/nix-cache/caddymodule/nix"
)

// get answers GET and HEAD of a file.
func (h *Handler) get(a *answer, p nix.CachePath) {
	if a.r.Method == http.MethodHead || a.r.Header.Get("If-None-Match") != "" {
		if done := h.getHead(a, p); done {
			return
		}
	}
	o, err := h.files.Open(a.r.Context(), p)
	if err != nil {
		h.fail(a, err)
		return
	}
	defer o.Close()
	h.metrics.lookup(a.kind, o.Result)
	a.w.Header().Set("Cache-Status", cacheStatus(o.Result))
	h.setFileHeaders(a.w.Header(), p.Kind(), o.Info)
	sent := a.send(o)
	h.metrics.servedBytes(a.kind, o.Result, sent)
}

// getHead answers what needs no body, and so must not begin a fill: HEAD, and a
// GET whose validator still holds.
func (h *Handler) getHead(a *answer, p nix.CachePath) (done bool) {
	info, result, err := h.files.Stat(a.r.Context(), p)
	if err != nil {
		h.fail(a, err)
		return true
	}
	if a.r.Method != http.MethodHead && !noneMatches(a.r.Header.Get("If-None-Match"), info.Tag) {
		return false
	}
	h.metrics.lookup(a.kind, result)
	status := cacheStatus(result)
	if result == cache.Miss {
		status = "nix-cache; fwd=miss; fwd-status=200"
	}
	a.w.Header().Set("Cache-Status", status)
	h.setFileHeaders(a.w.Header(), p.Kind(), info)
	a.sendContent(&cache.Object{Info: info, Body: &sizeOnly{size: info.Size}})
	return true
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
	from, ok := tailOffset(a.r.Header, o.Size)
	if !ok {
		return a.sendContent(o)
	}
	header := a.w.Header()
	header.Set("Content-Length", strconv.FormatInt(o.Size-from, 10))
	a.status = http.StatusOK
	if from > 0 || a.r.Header.Get("Range") != "" {
		a.status = http.StatusPartialContent
		header.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, o.Size-1, o.Size))
	}
	a.w.WriteHeader(a.status)
	sent := copyFrom(a.w, o, from)
	if sent < o.Size-from {
		abort()
	}
	return sent
}

// tailOffset returns where the one range of a request without conditions
// begins, if it reaches to the end; not ok for all other requests.
func tailOffset(header http.Header, size int64) (from int64, ok bool) {
	for _, condition := range []string{"If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since", "If-Range"} {
		if header.Get(condition) != "" {
			return 0, false
		}
	}
	spec := header.Get("Range")
	if spec == "" {
		return 0, true
	}
	digits, isBytes := strings.CutPrefix(spec, "bytes=")
	digits, isTail := strings.CutSuffix(digits, "-")
	from, err := strconv.ParseInt(digits, 10, 64)
	return from, isBytes && isTail && err == nil && from >= 0 && from < size
}

// fillBuffer is the size of the writes to a client that follows a fill. HTTP/2
// needs a third less CPU with them than with io.Copy's 32 KiB.
const fillBuffer = 64 << 10

// copyFrom sends the file from an offset on, and returns how much of it went.
// Why it was not all of it makes no difference.
func copyFrom(w io.Writer, o *cache.Object, from int64) (sent int64) {
	if o.Bytes != nil {
		n, _ := w.Write(o.Bytes[from:])
		return int64(n)
	}
	if _, err := o.Body.Seek(from, io.SeekStart); err != nil {
		return 0
	}
	if file, ok := o.Body.(*os.File); ok {
		// The file itself, not a reader around it: only so Caddy's writer
		// can leave the copying to the kernel.
		sent, _ = io.Copy(w, file)
		return sent
	}
	// Write by write, since Caddy's ReadFrom counts the time that the source
	// takes as the client's.
	sent, _ = io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{o.Body}, make([]byte, fillBuffer))
	return sent
}

// sendContent leaves conditions, ranges and HEAD to http.ServeContent.
func (a *answer) sendContent(o *cache.Object) int64 {
	w := &countingWriter{ResponseWriter: a.w, status: http.StatusOK}
	body := &watchedBody{ReadSeeker: o.Body}
	http.ServeContent(w, a.r, "", time.Time{}, body)
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
	w.ResponseWriter.WriteHeader(status)
}

func (w *countingWriter) Write(p []byte) (int, error) {
	n, err := w.ResponseWriter.Write(p)
	w.sent += int64(n)
	return n, err
}

// watchedBody notes the error of a read, which http.ServeContent drops.
type watchedBody struct {
	io.ReadSeeker
	err error
}

func (b *watchedBody) Read(p []byte) (int, error) {
	n, err := b.ReadSeeker.Read(p)
	if err != nil && err != io.EOF {
		b.err = err
	}
	return n, err
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
