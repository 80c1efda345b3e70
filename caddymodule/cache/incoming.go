package cache

import (
	"errors"
	"io"
	"sync"

	"github.com/stevedores-org/nix-cache/caddymodule/cache/disk"
	"github.com/stevedores-org/nix-cache/caddymodule/nix"
)

// Incoming is a file that a client sends to the origin. Of a large one a copy is
// written to the disk tier on its way, so that its first reader finds it there.
// A lack of room or a sick disk costs the copy, never the upload. Nor does a copy
// cost a file in the tier that was asked for more than once.
//
// It ends by Publish or Drop. Not for concurrent use.
type Incoming struct {
	in   *Namespace
	path nix.CachePath
	key  string
	size int64 // as announced; -1: it was not

	begun bool       // the first bytes have passed
	copy  *disk.File // nil before that, and if there is none
	at    int64      // how much is in it
	whole bool       // the end has been read
	ended bool

	deleted bool // at the origin, since it was begun; guarded by Cache.mu
}

// Incoming begins to follow an upload of size bytes, -1 if that is not known,
// before anything is asked of the origin.
func (n *Namespace) Incoming(p nix.CachePath, size int64) *Incoming {
	in := &Incoming{in: n, path: p, key: n.key(p), size: size}
	c := n.cache
	c.Start()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.incoming[in] = struct{}{}
	return in
}

// Tee returns a reader of what is sent that copies what is read through it. It
// takes no more time than the disk does, and has no errors of its own.
func (in *Incoming) Tee(sent io.Reader) io.Reader {
	if !in.in.copies(in.path) {
		return sent
	}
	return &tee{in, sent}
}

// copies reports whether an upload of the file leaves a copy in the disk tier:
// only of what is looked for there.
func (n *Namespace) copies(p nix.CachePath) bool {
	k := kinds[p.Kind()]
	return k.small == 0 && !k.mutable && !n.local()
}

type tee struct {
	in   *Incoming
	sent io.Reader
}

func (t *tee) Read(p []byte) (int, error) {
	n, err := t.sent.Read(p)
	if n > 0 {
		t.in.take(p[:n])
	}
	if err == io.EOF {
		t.in.whole = true
	}
	return n, err
}

func (in *Incoming) take(p []byte) {
	if !in.begun {
		in.begun = true
		in.begin()
	}
	if in.copy == nil {
		return
	}
	end := in.at + int64(len(p))
	err := in.makeRoom(end)
	if err == nil {
		err = writeCopies(in.copy, p, in.at)
	}
	if err != nil {
		in.giveUp(err)
		return
	}
	in.at = end
}

// copies are buffers for reuse.
var copies = sync.Pool{New: func() any { return new([copyBuffer]byte) }}

// writeCopies writes copies of the bytes, since a write to a disk that stalls goes
// on while its caller uses them again.
func writeCopies(to *disk.File, p []byte, at int64) error {
	for len(p) > 0 {
		buf := copies.Get().(*[copyBuffer]byte)
		n := copy(buf[:], p)
		_, err := to.WriteAt(buf[:n], at)
		if !errors.Is(err, disk.ErrStalled) {
			copies.Put(buf)
		}
		if err != nil {
			return err
		}
		p = p[n:]
		at += int64(n)
	}
	return nil
}

// begin opens the copy, if the tier can take one at once.
func (in *Incoming) begin() {
	c := in.in.cache
	if !c.hold() {
		return
	}
	if tier := c.tier(); tier != nil && tier.Ready() {
		in.create(tier)
	}
	if in.copy == nil {
		c.work.Done()
	}
}

// create opens the copy, unless the tier has one: equal names have equal bytes.
func (in *Incoming) create(tier *disk.Tier) {
	if _, there := tier.Stat(in.key); there {
		return
	}
	file, err := tier.Offer(in.key, in.announced(firstRoom))
	if err != nil {
		in.warn(err)
		return
	}
	in.copy = file
}

// Room grows with what has arrived, whatever was announced: by itself, up to
// maxGrowth at a time. Each growth may evict something.
const (
	firstRoom = 1 << 20
	maxGrowth = 64 << 20
)

// makeRoom makes room up to an offset.
func (in *Incoming) makeRoom(end int64) error {
	room := in.copy.Size()
	if end <= room {
		return nil
	}
	return in.copy.Resize(max(end, in.announced(room+min(room, maxGrowth))))
}

// announced returns the room wanted, but no more than was announced.
func (in *Incoming) announced(room int64) int64 {
	if in.size < 0 {
		return room
	}
	return min(room, in.size)
}

// maxPublishing is how many copies at a time are brought to the disk after their
// uploads have been answered. What comes beyond waits, as the disk does.
const maxPublishing = 8

// Publish puts the copy into the tier, if what was sent has been read to its end
// and no Forget has meant it since. It is to be called when the origin has the
// file, and the bytes that were read are known to be right. It does not wait until
// they are on the disk; look-ups do:
//
//	Publish ── a flight for all who ask from now on
//	        ── the copy is committed
//	        ── landed: they find it in the tier, or begin a fill
func (in *Incoming) Publish() {
	if in.ended {
		return
	}
	if in.copy == nil || !in.whole || in.in.cache.tier() == nil {
		in.Drop()
		return
	}
	in.ended = true
	c := in.in.cache
	c.publishing <- struct{}{}
	f := newFlight(func() {})
	f.err, f.publishing = errLanded, true
	in.in.supersede(in.key, f)
	go func() {
		if err := in.commit(); err != nil {
			in.warn(err)
		}
		c.land(in.key, f)
		close(f.ready)
		in.leave()
		<-c.publishing
		in.release()
	}()
}

func (in *Incoming) commit() error {
	defer in.copy.Close()
	if err := in.copy.Resize(in.at); err != nil {
		return err
	}
	return in.copy.Commit("", in.wanted)
}

// wanted reports whether no Forget has meant the file since it was begun.
func (in *Incoming) wanted() bool {
	c := in.in.cache
	c.mu.Lock()
	defer c.mu.Unlock()
	return !in.deleted
}

// Drop ends it without a copy; after Publish it does nothing. The cache is as if
// nothing had been sent: what the origin took of it comes by [WriteThrough].
func (in *Incoming) Drop() {
	if in.ended {
		return
	}
	in.ended = true
	in.release()
	in.leave()
}

// Uploaded drops what may be older than the file that the origin has now: that it
// was missing, what is just being fetched, and copies if it can have changed.
func (n *Namespace) Uploaded(p nix.CachePath) {
	n.cache.Start()
	if kinds[p.Kind()].small > 0 {
		n.forget(p)
	} else {
		n.supersede(n.key(p), nil)
	}
}

func (in *Incoming) leave() {
	c := in.in.cache
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.mu.incoming, in)
}

func (in *Incoming) giveUp(err error) {
	in.warn(err)
	in.release()
}

func (in *Incoming) warn(err error) {
	in.in.log.Warn("upload not kept on disk", "path", in.path.String(), "error", err)
}

// release ends the copy, if there is one.
func (in *Incoming) release() {
	if in.copy == nil {
		return
	}
	if err := in.copy.Abort(); err != nil {
		in.warn(err)
	}
	in.copy.Close()
	in.copy = nil
	in.in.cache.work.Done()
}

// hold keeps the tiers open until work.Done; false if the cache is closing.
func (c *Cache) hold() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.closing {
		return false
	}
	c.work.Add(1)
	return true
}
