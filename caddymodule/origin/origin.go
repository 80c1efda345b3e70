// Package origin is the contract of the place where a binary cache's files
// live for good: an R2 bucket, a local directory, or a fake in a test.
//
// A path is slash-separated and relative, without "." or ".." elements, such as
// "nar/1bn….nar.xz" (see io/fs.ValidPath). The callers take paths from
// nix.CachePath only, and an origin may rely on that.
//
// An answer is one of three, and they are never mixed up: the object, its
// absence (an error that is [fs.ErrNotExist]), or no answer at all
// (*[UnavailableError], or *[BusyError] where it was not asked). Whatever else goes wrong is the operator's to mend,
// such as a refused credential: a *[RefusedError] where the reason is known, or
// an error of its own.
//
// The package deliberately knows nothing of caching, retrying or HTTP statuses.
package origin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"time"
)

// ErrChanged says that a condition on the object's version did not hold: it is
// no longer the version the caller knows. See OpenOptions.IfMatch and
// CreateOptions.IfMatch.
var ErrChanged = errors.New("object has changed")

// UnavailableError says that the origin did not answer, or answered that it
// can't just now. It tells nothing about the object.
type UnavailableError struct {
	Op      string // "open", "stat", "create", "commit", "delete", "list"
	Path    string
	Timeout bool // no answer in time, as against a refused or broken connection or an error answer
	Err     error
}

func (e *UnavailableError) Error() string {
	return fmt.Sprintf("%s: origin unavailable: %v", Attempt(e.Op, e.Path), e.Err)
}

func (e *UnavailableError) Unwrap() error { return e.Err }

// BusyError says that the origin was not asked, since too many wait to ask it
// already. It tells nothing about the object or the origin, and to try again
// later makes sense.
type BusyError struct {
	Op   string // as in UnavailableError
	Path string
}

func (e *BusyError) Error() string {
	return Attempt(e.Op, e.Path) + ": not asked: too many requests wait for the origin"
}

// RefusedError says that the origin answered, but will give nothing before its
// operator has mended something.
type RefusedError struct {
	Op, Path string // as in UnavailableError
	Origin   string // which one it is, for the operator's eyes alone
	Cause    string // what is wrong, with no name in it
	Advice   string // what to do
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("%s: %s: %s; %s", Attempt(e.Op, e.Path), e.Origin, e.Cause, e.Advice)
}

// Attempt says what was tried, for errors: an operation, and of which path, if it
// is of one.
func Attempt(op, path string) string {
	if path == "" {
		return op
	}
	return op + " " + path
}

// Info describes one object.
type Info struct {
	Size    int64     // of the whole object, in bytes, whatever range was asked for
	ETag    string    // the origin's own version validator; opaque, good for IfMatch only
	ModTime time.Time // zero if the origin has none
}

// OpenOptions selects what Reader.Open reads. The zero value reads the whole
// object, whatever its version.
type OpenOptions struct {
	Offset  int64  // of the first byte; at or past the end the body is empty
	Length  int64  // the body ends after this many bytes, or at the object's end; 0: no limit
	IfMatch string // an Info.ETag: another version is ErrChanged; "": any version
}

// Reader reads objects. All methods may be called concurrently.
type Reader interface {
	// Open begins to read an object with one operation at the origin.
	// The context governs the body too. The caller closes the body.
	//
	// A body that ends before its range does says so with an error other than
	// io.EOF. A local origin's body is an *os.File where Length is 0.
	Open(ctx context.Context, path string, opts OpenOptions) (Info, io.ReadCloser, error)

	// Stat describes an object with one operation at the origin.
	Stat(ctx context.Context, path string) (Info, error)
}

// CreateOptions describes an object that is to be written.
type CreateOptions struct {
	// Size is the exact number of bytes to come, or -1 if it is not known.
	// An origin may use it to choose how to write; Commit fails where the
	// bytes written don't add up to it.
	Size int64

	// ContentType is stored with the object where the origin can.
	ContentType string

	// IfAbsent makes Commit fail with an error that is fs.ErrExist, and
	// change nothing, if there is an object at the path by then.
	IfAbsent bool

	// IfMatch, an Info.ETag, makes Commit fail with ErrChanged, and change
	// nothing, unless the object at the path is still that version.
	IfMatch string
}

// Writer changes objects. All methods may be called concurrently.
type Writer interface {
	// Create begins a new object at path. Nothing is visible there, and an
	// older object stays, before Staged.Commit. The context governs the
	// writing up to Commit's return. The caller ends the Staged.
	Create(ctx context.Context, path string, opts CreateOptions) (Staged, error)

	// Delete removes an object. Absence is an error that is fs.ErrNotExist
	// where the origin tells; R2 does not, and answers nil.
	Delete(ctx context.Context, path string) error
}

// Staged is an object in the making. Exactly one of Commit and Abort takes
// effect; Abort after Commit does nothing, so it can be deferred. Not for
// concurrent use.
type Staged interface {
	io.Writer

	// Commit makes the object visible, whole and durable, in one step. After
	// an error nothing has changed, unless the error is an *UnavailableError:
	// then the origin may or may not have taken it, and a retry is safe.
	Commit() error

	// Abort drops what was written. It works after the context has ended too.
	Abort() error
}

// Entry is one object in a listing.
type Entry struct {
	Path string
	Info
}

// Lister lists objects.
type Lister interface {
	// List yields the objects whose path begins with prefix, in lexical
	// order, staged ones not among them. An error ends the sequence.
	List(ctx context.Context, prefix string) iter.Seq2[Entry, error]
}

// Origin is all of it.
type Origin interface {
	Reader
	Writer
	Lister

	// String identifies the origin for logs and for keys: equal strings mean
	// the same objects. It holds no secret.
	String() string
}

// NotExist is the error for an object that is not there.
func NotExist(op, path string) error {
	return &fs.PathError{Op: op, Path: path, Err: fs.ErrNotExist}
}
