package cache

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	"github.com/stevedores-org/nix-cache/caddymodule/cache/disk"
	"github.com/stevedores-org/nix-cache/caddymodule/nix"
	"github.com/stevedores-org/nix-cache/caddymodule/origin"
)

// Policy says how a namespace treats its origin.
type Policy struct {
	// NegativeTTL is how long absence is remembered; 0: not at all.
	NegativeTTL time.Duration

	// PartSize is the size in bytes of one range read of a fill. 0 says
	// that the origin's files are local already: they are served as they are,
	// and only small files are kept, in memory.
	PartSize int64

	// Parallel is how many range reads of one fill run at a time.
	Parallel int

	// Waiting returns how many requests wait for the origin, so that what is
	// passed through makes way for them. nil: none do.
	Waiting func() int

	// Verify is what small files are held to. What it refuses is neither stored
	// nor served, wherever it comes from.
	Verify Verification
}

// Counters count a namespace's fills. They are the caller's, so that they
// outlive the namespace.
type Counters struct {
	InFlight atomic.Int64

	// Observe, if set, is told of each fill that has run to its end.
	Observe func(Fill)

	stored     atomic.Uint64
	failed     atomic.Uint64 // broken by the origin or the disk
	mismatched atomic.Uint64 // the bytes were not what the name says
	bypassed   atomic.Uint64 // passed through, since it could not be stored
}

// Fill is a fill that has ended.
type Fill struct {
	Outcome  string // "stored", "failed" or "mismatch"
	Bytes    int64  // that came from the origin and were written
	Duration time.Duration
}

// Outcomes returns how many fills have ended, by how.
func (c *Counters) Outcomes() map[string]uint64 {
	return map[string]uint64{
		"stored":   c.stored.Load(),
		"failed":   c.failed.Load(),
		"mismatch": c.mismatched.Load(),
		"bypass":   c.bypassed.Load(),
	}
}

// Namespace is one origin's part of a cache. It is cheap to make.
type Namespace struct {
	cache    *Cache
	prefix   string
	origin   origin.Reader
	policy   Policy
	counters *Counters
	log      *slog.Logger
}

// Namespace returns the part of the cache that belongs to the origin that id
// identifies: equal ids share what is stored, different ones nothing.
func (c *Cache) Namespace(id string, o origin.Reader, policy Policy, counters *Counters, log *slog.Logger) *Namespace {
	sum := sha256.Sum256([]byte(id))
	return &Namespace{cache: c, prefix: nix.EncodeBase32(sum[:5]) + "-", origin: o, policy: policy, counters: counters, log: log}
}

// key is the path's name in the tiers: unique, and safe in a file name where the
// file can be in one.
func (n *Namespace) key(p nix.CachePath) string {
	return n.prefix + strings.TrimPrefix(p.String(), "nar/")
}

func (n *Namespace) local() bool { return n.policy.PartSize == 0 }

// Wanted is what a client wants of a file. The zero value is all of it, for nobody
// in particular.
type Wanted struct {
	Client netip.Addr // none if it is unknown
	Offset int64      // of the first byte
	Length int64      // in bytes; 0: to the end
}

// Open opens a file: a hit, or a fill joined or begun. The Object is the whole
// file, whatever is wanted of it. Absence is an *AbsentError. The context governs
// the waiting and the Object's Body, not the fill.
func (n *Namespace) Open(ctx context.Context, p nix.CachePath, want Wanted) (*Object, error) {
	n.cache.Start()
	n.cache.asked.Add(1)
	switch {
	case kinds[p.Kind()].mutable:
		return n.openMutable(ctx, p, want)
	case n.passes(p):
		return n.passThrough(ctx, p, want)
	}
	key := n.key(p)
	for {
		landed := n.cache.landed.Load()
		if o, err := n.lookup(ctx, p, key, want); o != nil || err != nil {
			return o, err
		}
		if n.isLittle(p, key, want) {
			return n.openUnstored(ctx, p, want)
		}
		f, result := n.join(ctx, p, key, landed)
		if f == nil {
			continue // it has landed in the meantime
		}
		if err := n.cache.wait(ctx, f); err != nil {
			return nil, err
		}
		if err := n.refused(p, f); err != nil {
			return nil, err
		}
		o, err := f.open(ctx, result)
		switch {
		case errors.Is(err, errLanded):
			if err := f.awaitLanding(ctx); err != nil {
				return nil, err
			}
			continue
		case errors.Is(err, errDeserted):
			continue
		case errors.Is(err, errNotStorable):
			return n.passThrough(ctx, p, want)
		}
		return o, err
	}
}

// passes reports whether a file is passed through: one that may change, and a
// large one that is local already, or while there is no disk tier.
func (n *Namespace) passes(p nix.CachePath) bool {
	k := kinds[p.Kind()]
	return k.mutable || k.small == 0 && (n.local() || n.cache.tier() == nil)
}

// lookup asks the tiers, the negative entries and the damage. Neither object nor
// error: only the origin can tell.
func (n *Namespace) lookup(ctx context.Context, p nix.CachePath, key string, want Wanted) (*Object, error) {
	if s := n.fromMemory(p, key); s != nil {
		return memoryObject(s, Memory), nil
	}
	if o := n.fromDisk(ctx, p, key, want.Client); o != nil {
		return o, nil
	}
	if n.cache.negative.has(key) {
		return nil, &AbsentError{Path: p.String(), Result: Negative}
	}
	return nil, n.cache.damage.of(key)
}

// fromDisk opens a file from the disk tier; nil if it isn't there, or the disk
// can't be read.
func (n *Namespace) fromDisk(ctx context.Context, p nix.CachePath, key string, client netip.Addr) *Object {
	tier := n.cache.tier()
	if tier == nil || n.local() {
		return nil
	}
	forgets := n.cache.forgets.Load()
	f, meta, err := tier.Open(key, func(r io.ReaderAt) error { return checkFile(p, r) })
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, disk.ErrStalled) {
			n.log.Error("disk tier not used for this file", "path", p.String(), "error", err)
		}
		return nil
	}
	if kinds[p.Kind()].small == 0 {
		return n.tierObject(ctx, p, tier, openFile{f, meta.Size}, client)
	}
	defer f.Close()
	body := make([]byte, meta.Size)
	if _, err := io.ReadFull(f, body); err != nil || contentTag(body) != meta.Tag {
		n.log.Error("disk tier entry dropped: its bytes are not the ones that were stored", "path", p.String(), "error", err)
		tier.Remove(key)
		return nil
	}
	s, err := n.accepted(p, &small{body: body, tag: meta.Tag})
	if err != nil {
		n.dropRefused(p, key, err)
		return nil
	}
	n.cache.promote(key, s, forgets)
	return memoryObject(s, Disk)
}

// openFile is a file of the disk tier.
type openFile struct {
	*disk.Handle
	size int64
}

// tierObject returns a large file of the disk tier; nil if it has been found to be
// wrong.
func (n *Namespace) tierObject(ctx context.Context, p nix.CachePath, tier *disk.Tier, f openFile, client netip.Addr) *Object {
	if err := n.recheck(ctx, p, f.File, tier.Patient(f.File), client); err != nil {
		if !errors.Is(err, disk.ErrStalled) && tier.Drop(f.File) {
			n.log.Error("disk tier entry dropped: its bytes are not the ones that were stored", "path", p.String(), "error", err)
		}
		f.Close()
		return nil
	}
	o := fileObject(f.File, f.Close, Info{Size: f.size, Tag: nameTag(p)}, Disk)
	o.tier = &tierFile{ctx: ctx, in: n, path: p, file: f.File, size: f.size}
	return o
}

// checkFile compares a large file with its name; a small one is compared with
// its tag whenever it is read.
func checkFile(p nix.CachePath, f io.ReaderAt) error {
	if kinds[p.Kind()].small > 0 {
		return nil
	}
	hash := sha256.New()
	if _, err := io.Copy(hash, io.NewSectionReader(f, 0, math.MaxInt64)); err != nil {
		return err
	}
	if got := nix.SHA256(hash.Sum(nil)); got != p.FileHash() {
		return fmt.Errorf("it hashes to %s", got)
	}
	return nil
}

// Stat describes a file: from the tiers or a fill, or else by one operation at
// the origin. It never begins a fill. Absence is an *AbsentError.
func (n *Namespace) Stat(ctx context.Context, p nix.CachePath) (Info, Result, error) {
	n.cache.Start()
	n.cache.asked.Add(1)
	key := n.key(p)
	if info, result, ok := n.statTiers(p, key); ok {
		return info, result, nil
	}
	if info, ok := n.cache.filling(key); ok {
		return info, Collapsed, nil
	}
	if n.remembers(p) && n.cache.negative.has(key) {
		return Info{}, Negative, &AbsentError{Path: p.String(), Result: Negative}
	}
	if err := n.cache.damage.of(key); err != nil && !n.hasGone(ctx, p) {
		return Info{}, Miss, err
	}
	result := Miss
	if n.passes(p) {
		result = Bypass
	}
	forgets := n.cache.forgets.Load()
	info, err := n.statOrigin(ctx, p)
	if errors.Is(err, fs.ErrNotExist) {
		if n.remembers(p) {
			n.cache.remember(key, n.policy.NegativeTTL, forgets)
		}
		err = &AbsentError{Path: p.String(), Result: result}
	}
	return info, result, n.orStale(p, key, err)
}

// hasGone reports whether a file that was damaged has been deleted at the origin
// since: who pushes it again asks first whether it is there.
func (n *Namespace) hasGone(ctx context.Context, p nix.CachePath) bool {
	_, err := n.origin.Stat(ctx, p.String())
	gone := errors.Is(err, fs.ErrNotExist)
	if gone {
		n.cache.damage.forget(n.key(p))
	}
	return gone
}

func (n *Namespace) statTiers(p nix.CachePath, key string) (Info, Result, bool) {
	if kinds[p.Kind()].mutable {
		return Info{}, Miss, false
	}
	if s := n.fromMemory(p, key); s != nil {
		return s.info(), Memory, true
	}
	if kinds[p.Kind()].small > 0 && n.policy.Verify.Check != nil {
		if o := n.fromDisk(context.Background(), p, key, netip.Addr{}); o != nil {
			return o.Info, Disk, true
		}
		return Info{}, Miss, false
	}
	tier := n.cache.tier()
	if tier == nil || n.local() {
		return Info{}, Miss, false
	}
	meta, ok := tier.Stat(key)
	if !ok {
		return Info{}, Miss, false
	}
	if kinds[p.Kind()].small == 0 {
		meta.Tag = nameTag(p)
	}
	return Info{Size: meta.Size, Tag: meta.Tag}, Disk, true
}

// statOrigin takes a small file's description from its bytes, which cost no
// more than its description would.
func (n *Namespace) statOrigin(ctx context.Context, p nix.CachePath) (Info, error) {
	if kinds[p.Kind()].small > 0 {
		s, err := n.readSmall(ctx, p)
		if err != nil {
			return Info{}, err
		}
		return s.info(), nil
	}
	info, err := n.origin.Stat(ctx, p.String())
	if err == nil {
		n.found(p)
	}
	return Info{Size: info.Size, Tag: largeTag(p, info)}, err
}

// Forget drops every copy of a file, and that it was missing, before it
// returns. What is being filled is served to those who wait for it, but not
// stored, and neither is what is being uploaded. To be called after the file has
// changed at the origin in another way than by an Incoming.
func (n *Namespace) Forget(p nix.CachePath) {
	key := n.key(p)
	c := n.cache
	c.Start()
	c.mu.Lock()
	for in := range c.mu.incoming {
		in.deleted = in.deleted || in.key == key
	}
	c.mu.Unlock()
	n.forget(p)
}

// forget is Forget, but for uploads. Memory comes after the disk: a reader could
// bring to memory what it has just opened on disk.
func (n *Namespace) forget(p nix.CachePath) {
	key := n.key(p)
	c := n.cache
	n.supersede(key, nil)
	if tier := c.tierToForget(key); tier != nil && !kinds[p.Kind()].mutable {
		if err := tier.Remove(key); err != nil {
			n.log.Error("disk tier entry not removed", "path", p.String(), "error", err)
		}
	}
	if kinds[p.Kind()].small > 0 {
		c.outdatePromotions()
		c.memory.forget(key)
	}
}

// supersede drops that a file was missing, and what is just being fetched, which
// may be older than what is there now and goes on only for as long as somebody
// reads it; those who ask from here on have the flight next, if there is one.
// Copies of the file stay.
func (n *Namespace) supersede(key string, next *flight) {
	c := n.cache
	c.mu.Lock()
	c.forgets.Add(1)
	f := c.mu.flights[key]
	outdated := f != nil && !f.publishing
	if outdated {
		f.forgotten = true
		delete(c.mu.flights, key)
		c.mu.outdated[f] = struct{}{}
	}
	if next != nil {
		c.mu.flights[key] = next
	}
	c.mu.Unlock()
	if outdated {
		f.leaveToReaders()
	}
	c.negative.forget(key)
	c.damage.forget(key)
}
