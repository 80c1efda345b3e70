// Package upload takes in what clients push, and lets nothing into the origin
// that could harm another client.
//
// A NAR is written while it arrives and becomes visible only if its SHA-256 is
// its name. A narinfo has to pass the gate of nix.ParseNARInfo, to be signed by
// a trusted key and to find its NAR in place, with the content that was signed
// once it is decompressed; it may have to find the narinfos of its references in
// place, too: see References. What is stored is our own rendering of it, with our
// signature if there is a key for it, and a stored one is never replaced by one
// that says something else: see Divergence.
//
// A NAR that a narinfo refers to is not deleted, unless the client insists.
//
// Listings, logs, realisations and debug info are not signed: of these the form
// is checked, and the latest upload stays.
//
// The package deliberately knows nothing of HTTP, of what uploaders may do, and of
// caches.
package upload

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"golang.org/x/sync/singleflight"

	"github.com/stevedores-org/nix-cache/caddymodule/nix"
	"github.com/stevedores-org/nix-cache/caddymodule/origin"
)

// Outcome says what an upload that was accepted came to.
type Outcome string

const (
	Stored    Outcome = "stored"
	Unchanged Outcome = "unchanged" // it was there already
	Kept      Outcome = "kept"      // something else was there already, and stays; see Divergence
)

// Reason is the class of a refusal.
type Reason string

const (
	Malformed        Reason = "malformed"         // not what the path stands for
	Untrusted        Reason = "untrusted"         // no valid signature by a trusted key
	NARMissing       Reason = "nar_missing"       // a narinfo whose NAR is not there
	ReferenceMissing Reason = "reference_missing" // a narinfo with a reference that is not there
	Divergent        Reason = "divergent"         // a narinfo that contradicts the one that is there
	Referenced       Reason = "referenced"        // a NAR to be deleted that a narinfo refers to
	TooLarge         Reason = "too_large"
	Mismatch         Reason = "mismatch"   // hash or size is not what was announced
	Incomplete       Reason = "incomplete" // the client did not send it all
)

// RejectedError says that the client must send something else. Nothing was
// stored. Its text is one line for the client's user.
type RejectedError struct {
	Reason Reason
	Text   string
}

func (e *RejectedError) Error() string { return e.Text }

func reject(reason Reason, format string, args ...any) error {
	return &RejectedError{reason, fmt.Sprintf(format, args...)}
}

// Body is what a client sends.
type Body struct {
	io.Reader
	Size     int64  // in bytes as sent, -1 if not announced
	Encoding string // Content-Encoding; "" for none
	From     string // whose it is: what is scarce is shared between these
}

// Receiver takes uploads for one origin. All methods may be called concurrently.
type Receiver struct {
	Origin origin.Origin

	// Damaged reports whether a NAR that is at the origin is known to be
	// damaged, so that an upload takes its place. nil: none is.
	Damaged func(nix.CachePath) bool

	// TrustedKeys are those of which one must have signed a narinfo. If
	// there are none, signatures are not checked.
	TrustedKeys nix.PublicKeys

	// SignWith are keys that sign each narinfo that has passed, before it is
	// stored. Neither two of them nor one of them and a trusted key may have
	// the same name and be different keys.
	SignWith []nix.PrivateKey

	// OnDivergence says what a narinfo comes to that contradicts the stored one.
	OnDivergence Divergence

	// RequireReferences says which references of a narinfo must be there.
	RequireReferences References

	// Compressions are those that NARs may come in.
	Compressions Compressions

	// MaxSize is the most bytes that a NAR may have.
	MaxSize int64

	Log *slog.Logger

	contents contents
	referred referred
	commits  singleflight.Group // of NARs, by path
}

// receivers has a row for each kind of file.
var receivers = map[nix.Kind]func(*Receiver, context.Context, nix.CachePath, Body) (Outcome, error){
	nix.KindNARInfo:     (*Receiver).receiveNARInfo,
	nix.KindNAR:         (*Receiver).receiveNAR,
	nix.KindListing:     (*Receiver).receiveUnsigned,
	nix.KindLog:         (*Receiver).receiveUnsigned,
	nix.KindRealisation: (*Receiver).receiveUnsigned,
	nix.KindBuildTrace:  (*Receiver).receiveUnsigned,
	nix.KindDebugInfo:   (*Receiver).receiveUnsigned,
}

// Receive stores what belongs at path. Whatever is wrong with the body is a
// *RejectedError, and nothing has changed; other errors are the origin's.
//
// Where a NAR is accepted and its body was read to io.EOF, the bytes that were
// read are those of the NAR: their SHA-256 is its name. A body that was not read to
// io.EOF says nothing.
func (r *Receiver) Receive(ctx context.Context, path nix.CachePath, body Body) (Outcome, error) {
	receive, ok := receivers[path.Kind()]
	if !ok {
		return "", reject(Malformed, "%s: files of this kind can't be uploaded", path)
	}
	return receive(r, ctx, path, body)
}

// clientReader tells the client's failures from the origin's. What refuses the
// body by itself is a *RejectedError already.
type clientReader struct{ r io.Reader }

func (c clientReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	if err != nil && err != io.EOF && !errors.As(err, new(*RejectedError)) {
		err = &RejectedError{Incomplete, fmt.Sprintf("the body broke off: %v", rootOf(err))}
	}
	return n, err
}

// rootOf is the innermost error, which says most in least words.
func rootOf(err error) error {
	for {
		inner := errors.Unwrap(err)
		if inner == nil {
			return err
		}
		err = inner
	}
}
