// Package disk is the cache tier on a local disk: whole, immutable files in
// one directory, under a limit in bytes that is never exceeded.
//
//	<dir>/CACHEDIR.TAG      marks the directory as the tier's own
//	<dir>/lock              held by flock while a process uses the directory
//	<dir>/clean             made when a process ends in order, gone while one runs
//	<dir>/staging/          files being written; emptied when the tier opens
//	<dir>/objects/<xx>/     256 shards by hash of the key
//	    <key>,<size>,<tag>,<serial>
//
// A file enters objects/ by a rename after its bytes are on disk, or with a tag
// that tells whether they are, and its name carries all that the index must know. So the index is memory only, is read
// back from names alone, and a file cut short by a crash can't be taken for a
// whole one: it never got its name, or its length gives it away.
//
// After a stop without order, the bytes of each file are checked at its first
// use, and at any time those of one that somebody else has modified.
//
// Space is reserved before it is written, that of the directories included,
// which grow with their files and never shrink. A directory without the mark that
// has files of others is refused. What others put into one with it is left alone,
// and doesn't count. A file that is open is
// not evicted. One that is removed all the same stays readable to its readers, and
// its space counts until they have closed it.
//
// While the disk hangs, nobody does: see ErrStalled.
//
// The package deliberately doesn't know what it stores, coalesces nothing and
// never waits for an origin.
package disk

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/singleflight"
	"golang.org/x/sys/unix"

	"github.com/stevedores-org/nix-cache/caddymodule/internal/stall"
)

// ErrNoRoom says that a file can't be taken in: it is larger than the limit
// allows, or the file system has less free space than the operator wants kept.
var ErrNoRoom = errors.New("no room in the disk tier")

// TooSmallError says that a file is larger than the tier may become, whatever else
// is in it. It is an ErrNoRoom.
type TooSmallError struct {
	Limit int64 // of the tier, in bytes
	Size  int64 // of the file
}

func (e *TooSmallError) Error() string {
	return fmt.Sprintf("%v: a file of %d bytes exceeds the limit of %d", ErrNoRoom, e.Size, e.Limit)
}

func (e *TooSmallError) Unwrap() error { return ErrNoRoom }

// ErrInUse says that another process holds the directory, or another tier of this
// one: the text tells which.
var ErrInUse = errors.New("directory is in use by another process")

// Limits bound the tier's size.
type Limits struct {
	// Bytes is the most that the directory may take up, as du counts it, but
	// for files that are not the tier's own.
	Bytes int64

	// MinFree is the space in bytes to leave free on the file system.
	MinFree int64
}

// Meta is what a file's name tells about it.
type Meta struct {
	Size int64  // in bytes
	Tag  string // the writer's validator; letters and digits, may be empty
}

// Counters are totals since the tier was opened, and its present state.
type Counters struct {
	Bytes     int64 // on disk, reserved space included
	Entries   int64
	Limit     int64
	Evictions uint64
}

// Tier is an open directory. All methods may be called concurrently.
type Tier struct {
	dir    string
	log    *slog.Logger
	lock   *dirLock
	disk   *stall.Watch
	long   chan struct{} // holds one for each long operation that is under way
	serial atomic.Uint64

	trusted trusted
	checks  singleflight.Group

	shards  [shardCount]shard
	loads   sync.WaitGroup // of shards
	found   found          // until the scan is over
	index   index
	scanned chan struct{} // closed when all shards are
	stop    chan struct{} // closed by Close
}

// Open takes the directory, creating it if need be, and begins to read its
// names in the background. What is there can be opened at once; Create waits
// for the names. ErrInUse if another process has it, *ForeignError if it has
// files that are not a tier's. The error says what to do about it.
func Open(dir string, limits Limits, log *slog.Logger) (*Tier, error) {
	t := newTier(dir, limits, log)
	if err := t.take(); err != nil {
		return nil, fmt.Errorf("open disk tier %s: %w", dir, advised(dir, err))
	}
	go t.scan()
	return t, nil
}

func newTier(dir string, limits Limits, log *slog.Logger) *Tier {
	t := &Tier{dir: dir, log: log, scanned: make(chan struct{}), stop: make(chan struct{})}
	t.long = make(chan struct{}, maxLong)
	t.disk = stall.New(t.stalled)
	t.index.init(limits)
	for i := range t.shards {
		t.shards[i].loaded = make(chan struct{})
	}
	return t
}

// take makes the directory this tier's.
func (t *Tier) take() (err error) {
	if err := os.MkdirAll(t.dir, 0o700); err != nil {
		return err
	}
	if err := claim(t.dir); err != nil {
		return err
	}
	if t.lock, err = lockDir(t.dir); err != nil {
		return err
	}
	if err = t.clearStaging(); err == nil {
		t.trusted, err = takeTrusted(t.dir)
	}
	if err != nil {
		t.lock.Close()
	}
	return err
}

// Close gives the directory up once its names are read or the reading has
// stopped. Files that are open stay readable; nothing else may be called after.
func (t *Tier) Close() error {
	close(t.stop)
	<-t.scanned
	t.endLoads()
	return t.leave()
}

// Ready reports whether Create need not wait for the names to be read.
func (t *Tier) Ready() bool {
	select {
	case <-t.scanned:
		return true
	default:
		return false
	}
}

// Scanned is closed when every name in the directory is in the index.
func (t *Tier) Scanned() <-chan struct{} { return t.scanned }

// Open opens the file stored under key. Absence is fs.ErrNotExist; any other
// error is the disk's or the process's. A file that is not what its name says,
// or that the disk can't read, is removed.
//
// check is asked whether a file has the right bytes that may have changed since
// that was known: one found after an unclean stop, or modified by somebody else.
// It is to read the file by ReadAt into a buffer that it gives up after ErrStalled,
// and to pass that on; a file it returns another error for is removed.
func (t *Tier) Open(key string, check func(io.ReaderAt) error) (*Handle, Meta, error) {
	if err := t.load(shardOf(key)); err != nil {
		return nil, Meta{}, fmt.Errorf("open disk tier entry: %w", err)
	}
	e, good, ok := t.index.use(key)
	if !ok {
		return nil, Meta{}, fs.ErrNotExist
	}
	f, err := t.openGood(e, good, check)
	if err == nil {
		return &Handle{File: f, tier: t, entry: e}, e.meta(), nil
	}
	defer t.closed(e)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, errNotStored):
		if t.removeNamed(e.name, key) { // else it has been evicted just now
			t.log.Warn("disk tier entry dropped: the file was changed by somebody else", "file", t.path(e.name), "error", err)
		}
		return nil, Meta{}, fs.ErrNotExist
	case !isExhaustion(err) && !errors.Is(err, ErrStalled):
		t.removeNamed(e.name, key)
	}
	return nil, Meta{}, fmt.Errorf("open disk tier entry: %w", err)
}

// Handle is a file of the tier that is open for reading. The caller closes it, not
// the File in it.
type Handle struct {
	*os.File
	tier  *Tier
	entry *entry
}

// Close closes the file. It may be called once.
func (h *Handle) Close() error {
	err := h.close()
	h.tier.closed(h.entry)
	return err
}

// close leaves the closing of a deleted file, with which the file system frees it,
// to when the disk answers.
func (h *Handle) close() error {
	if !h.tier.index.isDeleted(h.entry) {
		return h.File.Close()
	}
	return h.tier.disk.Finish(patience, h.File.Close)
}

// closed undoes a use of an entry.
func (t *Tier) closed(e *entry) {
	if t.index.closed(e) {
		t.evictExcess()
	}
}

// openGood opens an entry's file and has it checked if need be.
func (t *Tier) openGood(e *entry, good int64, check func(io.ReaderAt) error) (*os.File, error) {
	f, err := t.openFile(func() (*os.File, error) { return os.Open(t.path(e.name)) }, func(f *os.File) { f.Close() })
	if err != nil {
		return nil, err
	}
	modified, err := checkSize(f, e.size)
	if err == nil && !t.isGood(good, modified) {
		err = t.checkOnce(e, f, check)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// isGood reports whether a file's bytes can't have changed since they were known
// to be right.
func (t *Tier) isGood(good, modified int64) bool {
	if good == 0 {
		return t.trusted.has(modified)
	}
	return modified == good
}

// checkOnce has a file checked, once for all who ask for it meanwhile, and puts
// it among those that are trusted.
func (t *Tier) checkOnce(e *entry, f *os.File, check func(io.ReaderAt) error) error {
	_, err, _ := t.checks.Do(e.name, func() (any, error) {
		switch err := check(t.Patient(f)); {
		case errors.Is(err, ErrStalled):
			return nil, err
		case err != nil:
			return nil, fmt.Errorf("%w: %w", errNotStored, err)
		}
		return nil, t.do(func() error {
			modified, err := renew(f.Name())
			if err == nil {
				t.index.checked(e.key(), e.name, modified)
			}
			return err
		})
	})
	return err
}

// isExhaustion reports whether an error says nothing of the file, but that the
// process or the system is short of something.
func isExhaustion(err error) bool {
	return errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) || errors.Is(err, unix.ENOMEM)
}

// errNotStored is the class of errors of files that are not the ones stored.
var errNotStored = errors.New("file is not the one that was stored")

// checkSize returns when the file was modified, if it has that size.
func checkSize(f *os.File, size int64) (modified int64, err error) {
	st, err := f.Stat()
	if err != nil {
		return 0, err
	}
	if st.Size() != size {
		return 0, fmt.Errorf("%w: it has %d bytes", errNotStored, st.Size())
	}
	return st.ModTime().UnixNano(), nil
}

// Stat describes the file stored under key without opening it. Nothing is there
// that a disk that stalls has not told of.
func (t *Tier) Stat(key string) (Meta, bool) {
	if t.load(shardOf(key)) != nil {
		return Meta{}, false
	}
	return t.index.peek(key)
}

// Remove takes the file stored under key out of the index and off the disk
// before it returns, or off a disk that stalls when it answers again. Absence is
// fine.
func (t *Tier) Remove(key string) error {
	shard := shardOf(key)
	switch err := t.load(shard); {
	case errors.Is(err, fs.ErrClosed):
		return fmt.Errorf("remove disk tier entry: %w", err)
	case err != nil && t.shards[shard].removeLater(key):
		return nil
	}
	e, ok := t.index.take(key)
	if !ok {
		return nil
	}
	if err := t.unlink(e); !errors.Is(err, ErrStalled) {
		return err
	}
	return nil
}

// Drop removes the entry that an open file of the tier belongs to, since its bytes
// are no good; false if it is not in the tier any more.
func (t *Tier) Drop(f *os.File) bool {
	name := filepath.Base(f.Name())
	return t.removeNamed(name, keyOf(name))
}

// removeNamed removes the entry only if it is still the file called name.
func (t *Tier) removeNamed(name, key string) bool {
	e, ok := t.index.takeNamed(key, name)
	if ok {
		t.unlink(e)
	}
	return ok
}

// SetLimits changes the limits, and evicts what is over them.
func (t *Tier) SetLimits(limits Limits) {
	t.index.setLimits(limits)
	t.evictExcess()
}

// Counters reports the tier's state.
func (t *Tier) Counters() Counters { return t.index.counters() }

// evictExcess deletes victims until what is reserved fits the limit, or only
// files that are open are left.
func (t *Tier) evictExcess() {
	for e := t.index.victim(); e != nil; e = t.index.victim() {
		t.unlink(e)
	}
}

func (t *Tier) path(name string) string {
	return filepath.Join(t.shard(shardOf(keyOf(name))), name)
}

func (t *Tier) shard(i int) string { return filepath.Join(t.dir, "objects", shardName(i)) }

func (t *Tier) staging() string { return filepath.Join(t.dir, "staging") }

// measure notes what a directory takes up by now: that of a shard, or staging.
func (t *Tier) measure(i int) {
	dir := t.staging()
	if i < shardCount {
		dir = t.shard(i)
	}
	var st unix.Stat_t
	if unix.Stat(dir, &st) == nil {
		t.index.grown(i, st.Blocks*512)
	}
}

func shardName(i int) string {
	const hex = "0123456789abcdef"
	return string([]byte{hex[i>>4], hex[i&15]})
}

func (t *Tier) fileName(key string, meta Meta) string {
	return key + "," + strconv.FormatInt(meta.Size, 10) + "," + meta.Tag + "," + strconv.FormatUint(t.serial.Add(1), 36)
}
