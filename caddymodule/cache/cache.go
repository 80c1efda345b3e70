// Package cache serves an origin's files, the immutable ones from memory and
// disk.
//
// A request goes memory → disk → negative entry → origin. What has to come
// from the origin is fetched once, however many ask for it: the first request
// begins a fill, the others join it, and all are served while it runs. The fill
// belongs to the cache. No client slows it down, and none ends it by leaving.
//
// Small files (narinfos) are read whole and live in memory and on disk; large
// ones (NARs) live on disk only, from where the kernel serves them best. Those
// that may change (listings, logs and their like) are passed through. The kinds
// differ by a row in the table of kinds.go, not by code paths of their own.
//
// What is uploaded passes by on its way to the origin. A copy of a large file is
// written to disk meanwhile, and enters the tier when the origin has it.
//
// A cache may forget, but never lie: nothing is stored before it is whole and
// its hash agrees where its name tells one, and after Forget no reader sees
// what was there before.
//
// The package deliberately knows nothing of HTTP, of what may be uploaded and of
// how an origin is reached.
package cache

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/stevedores-org/nix-cache/caddymodule/cache/disk"
)

// Limits bound a cache's tiers.
type Limits struct {
	Memory int64 // in bytes; 0 turns the memory tier off
	Disk   disk.Limits
}

// Cache is the tiers and the fills of one directory. All methods may be called
// concurrently.
type Cache struct {
	dir string // of the disk tier; "" without one
	log *slog.Logger

	started    sync.Once
	limiting   sync.Mutex // so that the limits that come last stay
	memory     memory
	negative   negative
	damage     damage
	littles    recent // files of which little was wanted
	repeats    *repeats
	pieces     *pieces
	disk       atomic.Pointer[disk.Tier] // nil while it can't be had; see tier
	diskErr    atomic.Pointer[error]     // why; nil once it is open
	attempt    chan opened               // to open it, under way; nil: none
	toldSmall  atomic.Int64              // the disk tier's limit, of which the log says that it is too small
	storing    chan struct{}             // a place for each small file being written to disk
	publishing chan struct{}             // the same for copies of uploads

	ctx     context.Context // ends the retries to open the disk tier
	cancel  context.CancelFunc
	opening sync.WaitGroup // these retries, and scrubs
	work    work           // flights and copies of uploads

	// Written with mu held, read without: a hit takes no lock of the cache's.
	landed  atomic.Uint64 // flights that have ended
	forgets atomic.Uint64 // calls of Forget

	asked atomic.Uint64 // files that somebody wanted

	unread atomic.Int64 // fills that nobody reads

	mu struct {
		sync.Mutex
		limits   Limits
		flights  map[string]*flight
		outdated map[*flight]struct{} // what they bring may be outdated: they go on for those who wait already
		incoming map[*Incoming]struct{}
		unopened map[string]struct{} // keys that were forgotten while the disk tier was not open
		started  bool
		closing  bool
		closed   bool
		kept     chan struct{} // closed by the Keep that ends a Close
	}
}

// New returns a cache with its disk tier in dir, or without one if dir is "".
// It opens nothing: that is for Start.
func New(dir string, limits Limits, log *slog.Logger) *Cache {
	c := &Cache{dir: dir, log: log, storing: make(chan struct{}, maxStoring), publishing: make(chan struct{}, maxPublishing)}
	c.littles.span = littleSpan
	c.repeats, c.pieces = newRepeats(), newPieces()
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.mu.limits = limits
	c.mu.flights = make(map[string]*flight)
	c.mu.outdated = make(map[*flight]struct{})
	c.mu.incoming = make(map[*Incoming]struct{})
	c.mu.unopened = make(map[string]struct{})
	return c
}

// Start opens the tiers; the first look-up does it if nobody else did. A disk
// tier that can't be opened is left out and tried again every few seconds:
// the cache works without it.
func (c *Cache) Start() { c.started.Do(c.start) }

func (c *Cache) start() {
	c.mu.Lock()
	limits, closing := c.mu.limits, c.mu.closing
	c.mu.started = !closing
	c.mu.Unlock()
	if closing {
		return
	}
	c.setMemory(limits.Memory)
	if c.dir == "" {
		return
	}
	if err := c.openDisk(); err != nil {
		c.logNoDisk(err)
		c.opening.Go(func() { c.keepOpeningDisk(err) })
	}
}

// maxStoring bounds the threads that wait for the disk: a burst of narinfos
// could otherwise need one for each.
const maxStoring = 32

// limitDisk gives the disk tier the limits of now, if there is a tier.
func (c *Cache) limitDisk() {
	c.limiting.Lock()
	defer c.limiting.Unlock()
	c.mu.Lock()
	limits := c.mu.limits.Disk
	c.mu.Unlock()
	if tier := c.disk.Load(); tier != nil {
		tier.SetLimits(limits)
	}
}

func (c *Cache) logNoDisk(err error) { c.log.Error("serving without the disk tier", "error", err) }

func (c *Cache) setMemory(limit int64) {
	if err := c.memory.setLimit(limit); err != nil {
		c.log.Error("serving without the memory tier", "error", err)
	}
}

// SetLimits changes the limits of the tiers, in use or not yet started.
func (c *Cache) SetLimits(limits Limits) {
	c.mu.Lock()
	c.mu.limits = limits
	started := c.mu.started
	c.mu.Unlock()
	if !started {
		return
	}
	c.setMemory(limits.Memory)
	c.limitDisk()
}

// Tiers reports the state of the tiers.
func (c *Cache) Tiers() Tiers {
	t := Tiers{Memory: c.memory.counters(), DiskWanted: c.dir != ""}
	if tier := c.disk.Load(); tier != nil {
		t.Disk = tier.Counters()
		t.DiskOpen = !tier.Stalled()
	}
	t.DiskErr = c.whyNoTier()
	return t
}

// Tiers is the state of a cache's tiers.
type Tiers struct {
	Memory     disk.Counters
	Disk       disk.Counters
	DiskWanted bool  // the cache is to have a disk tier
	DiskOpen   bool  // and it is in use
	DiskErr    error // why it is not, and what to do about it
}
