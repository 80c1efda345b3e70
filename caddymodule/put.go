package caddymodule

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/stevedores-org/nix-cache/caddymodule/auth"
	"github.com/stevedores-org/nix-cache/caddymodule/nix"
	"github.com/stevedores-org/nix-cache/caddymodule/upload"
)

// write answers PUT and DELETE: first who it is, then the path, then the body.
func (h *Handler) write(a *answer, t target) {
	right, do := auth.Upload, h.put
	if a.r.Method == http.MethodDelete {
		right, do = auth.Delete, h.delete
	}
	token, err := h.authorizeWrite(a.r, right)
	a.writer = err == nil || errors.Is(err, errForbidden)
	if err == nil && t.err != nil {
		err = &badPathError{t.err}
	}
	if err != nil {
		h.fail(a, err)
		a.drain()
		return
	}
	end, err := uploads.begin(a)
	if err != nil {
		h.fail(a, err)
		return
	}
	defer end()
	do(a, t.path, token.Name)
}

// logWrite is the log for what a token writes.
func (h *Handler) logWrite(p nix.CachePath, token string) *slog.Logger {
	return h.log.With("token", token, "path", p.String())
}

func (h *Handler) put(a *answer, p nix.CachePath, token string) {
	received := &countingReader{Reader: requestBody{newSteadyBody(a)}}
	outcome, err := h.receive(a, p, token, received)
	if err != nil {
		h.missing.doubt() // it may be for a NAR that is gone
		h.countUpload(a, received.n, failedOutcome(err))
		h.fail(a, err)
		a.drain()
		return
	}
	if outcome != upload.Stored { // the origin has it from elsewhere, since who knows when
		h.uploaded(p)
	}
	h.countUpload(a, received.n, acceptedOutcome(outcome))
	h.logWrite(p, token).Info("uploaded", "outcome", string(outcome), "bytes", received.n, "duration", time.Since(a.begun), "client", a.client().String())
	status := http.StatusOK
	if outcome == upload.Stored {
		status = http.StatusCreated
	}
	a.text(status, "OK")
}

// receive takes an upload in, in a place of its token's.
func (h *Handler) receive(a *answer, p nix.CachePath, token string, body io.Reader) (upload.Outcome, error) {
	giveBack, err := h.takePlace(a.context(), p.Kind(), token)
	if err != nil {
		return "", err
	}
	defer giveBack()
	incoming := h.files.Incoming(p, a.r.ContentLength)
	defer incoming.Drop()
	outcome, err := h.receiver.Receive(a.context(), p, upload.Body{
		Reader:   incoming.Tee(body),
		Size:     a.r.ContentLength,
		Encoding: strings.ToLower(a.r.Header.Get("Content-Encoding")),
		From:     h.uploader(token),
	})
	if err == nil {
		incoming.Publish()
	}
	return outcome, err
}

func (h *Handler) delete(a *answer, p nix.CachePath, token string) {
	when, err := deletion(a.r.URL.RawQuery)
	if err != nil {
		h.fail(a, err)
		return
	}
	if err := h.receiver.Delete(a.context(), p, when); err != nil {
		h.fail(a, err)
		return
	}
	h.missing.doubt()
	h.logWrite(p, token).Info("deleted")
	a.text(http.StatusOK, "OK")
}

// deletion reads a query: force=true insists, and without force nobody does.
// Nothing else is taken for either.
func deletion(query string) (upload.Deletion, error) {
	values, err := url.ParseQuery(query)
	if err != nil {
		return 0, &badQueryError{fmt.Errorf("the query can't be read: %w", err)}
	}
	switch force := values["force"]; {
	case len(force) == 0:
		return upload.IfUnreferenced, nil
	case len(force) == 1 && force[0] == "true":
		return upload.Regardless, nil
	default:
		return 0, &badQueryError{fmt.Errorf("force: expected true, or no force at all, got %.40q", strings.Join(force, ", "))}
	}
}

// uploadOutcome is how an upload ended, as labels in metrics.
type uploadOutcome struct{ outcome, reason string }

// acceptedOutcome counts what was kept as unchanged: nothing is stored of it.
func acceptedOutcome(outcome upload.Outcome) uploadOutcome {
	if outcome == upload.Kept {
		return uploadOutcome{string(upload.Unchanged), string(upload.Divergent)}
	}
	return uploadOutcome{string(outcome), ""}
}

func failedOutcome(err error) uploadOutcome {
	var rejected *upload.RejectedError
	switch {
	case errors.As(err, &rejected):
		return uploadOutcome{"rejected", string(rejected.Reason)}
	case errors.Is(err, errUploadsBusy):
		return uploadOutcome{"failed", "busy"}
	}
	return uploadOutcome{"failed", "origin"}
}

func (h *Handler) countUpload(a *answer, bytes int64, o uploadOutcome) {
	h.metrics.upload(receivedUpload{a.kind, o.outcome, o.reason, bytes, time.Since(a.begun)})
}

// requestBody is a body that another handler may have bounded: Caddy's
// request_body does.
type requestBody struct{ io.Reader }

func (b requestBody) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if over, ok := errors.AsType[*http.MaxBytesError](err); ok {
		err = &upload.RejectedError{
			Reason: upload.TooLarge,
			Text:   fmt.Sprintf("larger than the %d bytes that this server takes (request_body max_size)", over.Limit),
		}
	}
	return n, err
}

// countingReader counts what is read.
type countingReader struct {
	io.Reader
	n int64
}

func (r *countingReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	r.n += int64(n)
	return n, err
}

const (
	maxDrainHTTP1 = 4 << 20
	maxDrainHTTP2 = 64 << 20
	maxDrainTime  = 10 * time.Second
)

// drain reads what a refused client still sends. A client on HTTP/2 that is cut
// off while it sends takes that for an error of the connection and repeats the
// request, and one on HTTP/1.1 may miss the answer. One that waits for our 100
// sends nothing after a refusal.
func (a *answer) drain() {
	if a.cut() {
		http.NewResponseController(a.w).Flush() // before the process ends
		return
	}
	most := int64(maxDrainHTTP1)
	switch {
	case a.r.ProtoMajor >= 2:
		most = maxDrainHTTP2
	case a.r.Header.Get("Expect") != "":
		return
	}
	// One that announced more than it sends would wait for ever for an answer.
	http.NewResponseController(a.w).SetReadDeadline(time.Now().Add(maxDrainTime))
	io.CopyN(io.Discard, a.r.Body, most)
}
