package cache

import (
	"context"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"runtime"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/stevedores-org/nix-cache/caddymodule/cache/disk"
	"github.com/stevedores-org/nix-cache/caddymodule/nix"
	"github.com/stevedores-org/nix-cache/caddymodule/origin"
)

const (
	// firstPart is the most that a fill's first range read asks for: little,
	// since the size of the file, on which all else waits, comes with it.
	firstPart = 1 << 20

	// minPart is the least worth a request of its own.
	minPart = 4 << 20

	// maxBreaks is how often in a row a part's body may break with less than
	// minProgress bytes in between. What it takes to get a body at all the
	// origin retries itself.
	maxBreaks   = 4
	minProgress = 256 << 10
	breakDelay  = 200 * time.Millisecond // doubles with each break

	copyBuffer = 256 << 10
	hashBuffer = 1 << 20
)

// fill brings one large file from the origin into a file of the disk tier, by
// range reads in parallel, in order of their offset. Readers follow at their
// own pace: each sees the bytes that are there from its offset on, but nobody
// the last one before the hash of all agrees with the name. So a damaged copy
// never makes a complete response.
type fill struct {
	path   nix.CachePath
	info   Info
	in     *Namespace
	source origin.Info
	file   *disk.File
	ways   int   // range reads at a time
	first  int64 // size of the first part
	part   int64 // size of the others but the last
	cancel context.CancelFunc

	mu struct {
		sync.Mutex
		begun     []bool  // per part: somebody reads it
		wanted    []int   // parts that readers wait for, latest last
		written   []int64 // per part: how many bytes of it are there
		head      int     // the first part that is not whole
		served    bool    // a reader has come back for more
		verified  bool
		ended     bool
		err       error
		changed   chan struct{} // closed and replaced when any of the above changes
		readers   int
		unread    bool // has no readers, and is one of Cache.unread
		abandoned bool // to be given up when the last reader leaves
		givenUp   bool // cancelled, or about to be
	}
}

// maxUnread is how many fills go on that nobody reads any more. It is more than
// one client has of them under way when it is interrupted and comes back.
const maxUnread = 128

func newFill(n *Namespace, p nix.CachePath, source origin.Info, file *disk.File, first int64, cancel context.CancelFunc) *fill {
	f := &fill{
		path:   p,
		info:   Info{Size: source.Size, Tag: nameTag(p)},
		in:     n,
		source: source,
		file:   file,
		ways:   max(n.policy.Parallel, 1),
		first:  first,
		cancel: cancel,
	}
	f.part = partSize(source.Size-first, n.policy.PartSize, int64(f.ways))
	f.mu.begun = make([]bool, f.parts())
	f.mu.begun[0] = true // its body is open already
	f.mu.written = make([]int64, f.parts())
	f.mu.changed = make(chan struct{})
	return f
}

// partSize returns the size of the parts that share the rest of a file: at most
// most, and such that all ways are busy to the end, unless the parts would become
// too small for that.
func partSize(rest, most, ways int64) int64 {
	if rest <= 0 {
		return most
	}
	rounds := (rest + most*ways - 1) / (most * ways)
	even := (rest + rounds*ways - 1) / (rounds * ways)
	return min(max(even, minPart), most)
}

// received returns how many bytes have been written.
func (f *fill) received() (n int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, written := range f.mu.written {
		n += written
	}
	return n
}

func (f *fill) parts() int {
	rest := max(f.info.Size-f.first, 0)
	return 1 + int((rest+f.part-1)/f.part)
}

// bounds returns where part i begins and ends.
func (f *fill) bounds(i int) (start, end int64) {
	if i == 0 {
		return 0, min(f.first, f.info.Size)
	}
	start = f.first + int64(i-1)*f.part
	return start, min(start+f.part, f.info.Size)
}

// partAt returns the part that holds the byte at offset.
func (f *fill) partAt(offset int64) int {
	if offset < f.first {
		return 0
	}
	return 1 + int((offset-f.first)/f.part)
}

// run reads everything and returns when it is on file and verified, or nothing
// goes on any more. body is that of part 0.
func (f *fill) run(ctx context.Context, body io.ReadCloser) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return f.readPart(ctx, 0, body) })
	for range min(f.ways, f.parts()-1) {
		g.Go(func() error { return f.readParts(ctx) })
	}
	g.Go(func() error { return f.verify(ctx) })
	return g.Wait()
}

// readParts reads parts until all have begun. The first bytes, which a client
// waits for, have the processor to themselves.
func (f *fill) readParts(ctx context.Context) error {
	if err := f.awaitFirst(ctx); err != nil {
		return err
	}
	for {
		i, ok := f.nextPart()
		if !ok {
			return nil
		}
		if err := f.readPart(ctx, i, nil); err != nil {
			return err
		}
	}
}

// awaitFirst waits until the first bytes are on their way to a client, if there
// is one, or the first part is whole.
func (f *fill) awaitFirst(ctx context.Context) error {
	for {
		sent, changed := f.firstSent()
		if sent {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (f *fill) firstSent() (bool, <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	waiting := f.mu.readers > 0 && !f.mu.served
	return f.mu.head > 0 || f.mu.written[0] > 0 && !waiting, f.mu.changed
}

// nextPart chooses the part to read next: the one a reader has asked for last,
// else the first.
func (f *fill) nextPart() (i int, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	i = -1
	for len(f.mu.wanted) > 0 && i < 0 {
		last := len(f.mu.wanted) - 1
		if want := f.mu.wanted[last]; !f.mu.begun[want] {
			i = want
		}
		f.mu.wanted = f.mu.wanted[:last]
	}
	if i < 0 {
		i = slices.Index(f.mu.begun, false)
	}
	if i < 0 {
		return 0, false
	}
	f.mu.begun[i] = true
	return i, true
}

// readPart brings part i into the file, and takes up again where a body broke.
// body is the part's if it is open already.
func (f *fill) readPart(ctx context.Context, i int, body io.ReadCloser) error {
	for breaks := 0; ; breaks++ {
		before := f.writtenOf(i)
		err := f.readOnce(ctx, i, body)
		if err == nil || ctx.Err() != nil {
			return err
		}
		var broke *brokenBodyError
		if !asBroken(err, &broke) {
			return err
		}
		if f.writtenOf(i)-before >= minProgress {
			breaks = 0
		}
		if breaks >= maxBreaks {
			return unavailable(f.path, broke.err)
		}
		if err := pause(ctx, breakDelay<<breaks); err != nil {
			return err
		}
		body = nil
	}
}

// readOnce reads what part i lacks by one body.
func (f *fill) readOnce(ctx context.Context, i int, body io.ReadCloser) error {
	start, end := f.bounds(i)
	at := start + f.writtenOf(i)
	if body == nil {
		info, opened, err := f.in.origin.Open(ctx, f.path.String(), origin.OpenOptions{Offset: at, Length: end - at, IfMatch: f.source.ETag})
		if err != nil {
			return orBroken(err)
		}
		if info.Size != f.info.Size {
			opened.Close()
			return origin.ErrChanged
		}
		body = opened
	}
	defer body.Close()
	buf := make([]byte, min(copyBuffer, end-at))
	for at < end {
		n, err := body.Read(buf[:min(int64(len(buf)), end-at)])
		if n > 0 {
			if _, err := f.file.WriteAt(buf[:n], at); err != nil {
				return &diskError{err}
			}
			at += int64(n)
			f.advance(i, int64(n))
			if at == int64(n) {
				runtime.Gosched() // the client that waits for the first bytes goes first
			}
		}
		if err != nil && at < end {
			return &brokenBodyError{err}
		}
	}
	return nil
}

// verify hashes what has arrived without a gap, and in the end compares.
func (f *fill) verify(ctx context.Context) error {
	hash := sha256.New()
	for at := int64(0); at < f.info.Size; {
		there, changed := f.contiguous()
		if there == at {
			select {
			case <-changed:
				continue
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		n, err := f.hashSome(hash, at, there)
		if err != nil {
			return &diskError{err}
		}
		at += n
	}
	if err := checkHash(f.path, hash); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mu.verified = true
	f.announce()
	return nil
}

// hashBuffers are for reuse: of hundreds of fills that wait for their bytes none
// has one.
var hashBuffers = sync.Pool{New: func() any { return new([hashBuffer]byte) }}

// hashSome hashes some of what is there from an offset on, and returns how much.
func (f *fill) hashSome(hash hash.Hash, at, there int64) (int64, error) {
	buf := hashBuffers.Get().(*[hashBuffer]byte)
	defer hashBuffers.Put(buf)
	n, err := f.file.ReadAt(buf[:min(hashBuffer, there-at)], at)
	hash.Write(buf[:n])
	return int64(n), err
}

// checkHash compares the hash of a file with its name.
func checkHash(p nix.CachePath, hash hash.Hash) error {
	if got := nix.SHA256(hash.Sum(nil)); got != p.FileHash() {
		return &DamagedError{p.String(), fmt.Sprintf("origin's copy hashes to %s, not to its name", got)}
	}
	return nil
}

// checkEmpty is checkHash for a file without a byte: none would come, before
// whose arrival it could be checked.
func checkEmpty(p nix.CachePath, size int64) error {
	if size > 0 || kinds[p.Kind()].mutable {
		return nil
	}
	return checkHash(p, sha256.New())
}

// announce wakes all who wait. It is called with the lock held.
func (f *fill) announce() {
	close(f.mu.changed)
	f.mu.changed = make(chan struct{})
}

func (f *fill) advance(i int, n int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mu.written[i] += n
	for f.mu.head < len(f.mu.written) {
		start, end := f.bounds(f.mu.head)
		if f.mu.written[f.mu.head] < end-start {
			break
		}
		f.mu.head++
	}
	f.announce()
}

func (f *fill) writtenOf(i int) int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.mu.written[i]
}

// contiguous returns how many bytes are there from the start without a gap.
func (f *fill) contiguous() (int64, <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.mu.head == len(f.mu.written) {
		return f.info.Size, f.mu.changed
	}
	start, _ := f.bounds(f.mu.head)
	return start + f.mu.written[f.mu.head], f.mu.changed
}

// available returns how many bytes a reader at offset may have now. If none,
// the channel tells when to ask again, unless the fill has failed, and the
// reader's part is read before those whose turn it would be.
func (f *fill) available(offset int64) (n int64, changed <-chan struct{}, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.mu.err != nil {
		return 0, nil, f.mu.err
	}
	if offset > 0 && !f.mu.served {
		f.mu.served = true
		f.announce()
	}
	if f.mu.verified {
		return f.info.Size - offset, nil, nil
	}
	i := f.partAt(offset)
	start, _ := f.bounds(i)
	there := min(start+f.mu.written[i], f.info.Size-1)
	if !f.mu.begun[i] && !slices.Contains(f.mu.wanted, i) {
		f.mu.wanted = append(f.mu.wanted, i)
	}
	return max(there-offset, 0), f.mu.changed, nil
}

// end tells the readers how the fill ended.
func (f *fill) end(err error) {
	f.mu.Lock()
	f.mu.ended = true
	if !f.mu.verified { // what went wrong after that is not the readers' matter
		f.mu.err = err
	}
	f.announce()
	f.readAgain()
	idle := f.mu.readers == 0
	f.mu.Unlock()
	f.file.Abort()
	if idle {
		f.file.Close()
	}
}

// follow adds a reader; false if the fill has ended, or is about to.
func (f *fill) follow(ctx context.Context) (*fillReader, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.mu.ended || f.mu.givenUp {
		return nil, false
	}
	f.mu.readers++
	f.readAgain()
	return &fillReader{ctx: ctx, fill: f}, true
}

func (f *fill) leave() {
	f.mu.Lock()
	f.mu.readers--
	last, ended := f.mu.readers == 0, f.mu.ended
	if last {
		f.announce()
	}
	f.mu.Unlock()
	switch {
	case !last:
	case ended:
		f.file.Close()
	default:
		f.desert()
	}
}

// desert gives up a fill that has no readers if it was abandoned, or if there are
// too many such fills.
func (f *fill) desert() {
	f.mu.Lock()
	idle := f.mu.readers == 0 && !f.mu.ended
	if idle && !f.mu.unread {
		f.mu.unread = true
		f.mu.givenUp = f.in.cache.unread.Add(1) > maxUnread
	}
	f.mu.givenUp = f.mu.givenUp || idle && f.mu.abandoned
	givenUp := f.mu.givenUp
	f.mu.Unlock()
	if givenUp {
		f.cancel()
	}
}

// readAgain says that the fill is none of those that nobody reads. It is called
// with the lock held.
func (f *fill) readAgain() {
	if f.mu.unread {
		f.mu.unread = false
		f.in.cache.unread.Add(-1)
	}
}

// abandon gives the fill up once it has no readers.
func (f *fill) abandon() {
	f.mu.Lock()
	f.mu.abandoned = true
	idle := f.mu.readers == 0
	f.mu.Unlock()
	if idle {
		f.desert()
	}
}
