package cache

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
)

// Result says how a look-up was answered.
type Result uint8

const (
	Miss      Result = iota // by a fill that this look-up began
	Memory                  // from memory
	Disk                    // from disk
	Negative                // by the memory of its absence
	Collapsed               // by a fill that another look-up had begun
	Bypass                  // straight from the origin: nothing is stored
	Stale                   // by the memory of its absence, since the origin can't be reached
)

var resultNames = [...]string{"miss", "memory", "disk", "negative", "collapsed", "bypass", "stale"}

func (r Result) String() string { return resultNames[r] }

// Results yields every Result.
func Results() iter.Seq[Result] {
	return func(yield func(Result) bool) {
		for r := range resultNames {
			if !yield(Result(r)) {
				return
			}
		}
	}
}

// Info describes a file as clients see it.
type Info struct {
	Size int64  // in bytes
	Tag  string // validator: the same for the same bytes, wherever they come from
}

// Object is a file that is open for reading.
type Object struct {
	Info
	Result Result

	// Body is an *os.File for a file on disk, a *bytes.Reader in Bytes'
	// stead for one in memory, and else a reader that waits for what it
	// is asked for. The caller closes the Object, not the Body.
	Body io.ReadSeeker

	// Bytes is the whole file, if it is in memory; it must not be changed.
	Bytes []byte

	tier  *tierFile // nil for a file that is not from the disk tier
	rest  *fileReader
	close func() error
}

// Resume returns a reader of the file at offset at, for who began to read at
// from. It takes Body's place, and goes on where a file on disk, as which Body is,
// can't be read. It is to be called once.
func (o *Object) Resume(from, at int64) (io.ReadSeeker, error) {
	if file, ok := o.Body.(*os.File); ok {
		o.rest = &fileReader{file: file, size: o.Size, tier: o.tier, got: stretch{from, at}}
		return o.rest, nil
	}
	_, err := o.Body.Seek(at, io.SeekStart)
	return o.Body, err
}

// Close releases the object. It may be called once.
func (o *Object) Close() error {
	if o.rest != nil {
		o.rest.close()
	}
	if o.close == nil {
		return nil
	}
	return o.close()
}

func memoryObject(s *small, result Result) *Object {
	return &Object{
		Info:   s.info(),
		Result: result,
		Body:   bytes.NewReader(s.body),
		Bytes:  s.body,
	}
}

// fileObject takes over a file, which is to be closed by close.
func fileObject(f *os.File, close func() error, info Info, result Result) *Object {
	return &Object{Info: info, Result: result, Body: f, close: close}
}

// AbsentError is absence, which is fs.ErrNotExist, and how it is known:
// Negative, Miss, Collapsed, Bypass or Stale.
type AbsentError struct {
	Path   string
	Result Result
}

func (e *AbsentError) Error() string { return fmt.Sprintf("open %s: %v", e.Path, fs.ErrNotExist) }

func (e *AbsentError) Unwrap() error { return fs.ErrNotExist }

// DamagedError says that the origin's copy is not what its name promises, so
// it is neither stored nor served.
type DamagedError struct {
	Path   string
	Reason string
}

func (e *DamagedError) Error() string { return fmt.Sprintf("open %s: %s", e.Path, e.Reason) }
