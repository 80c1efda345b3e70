package cache

import (
	"errors"
	"fmt"
	"time"

	"github.com/stevedores-org/nix-cache/caddymodule/cache/disk"
)

// tier returns the disk tier; nil while there is none, or its disk does not
// answer.
func (c *Cache) tier() *disk.Tier {
	tier := c.disk.Load()
	if tier == nil || tier.Stalled() {
		return nil
	}
	return tier
}

var errNoTier = errors.New("the disk tier is not open")

// whyNoTier returns why the disk tier is not in use.
func (c *Cache) whyNoTier() error {
	if err := c.diskErr.Load(); err != nil {
		return *err
	}
	if tier := c.disk.Load(); tier != nil && tier.Stalled() {
		return fmt.Errorf("use disk tier %s: %w: it is used again when it does", c.dir, disk.ErrStalled)
	}
	return nil
}

// create makes room in the disk tier for a file that somebody waits for.
func (c *Cache) create(key string, size int64) (*disk.File, error) {
	tier := c.tier()
	if tier == nil {
		return nil, errNoTier
	}
	return tier.Create(key, size)
}

// Reserve takes n bytes of the disk tier's budget for files beside it, on the same
// file system, until release. It costs no file that was asked for more than once,
// and never waits.
func (c *Cache) Reserve(n int64) (release func(), err error) {
	tier := c.tier()
	if tier == nil || !tier.Ready() {
		return nil, errNoTier
	}
	return tier.Reserve(n)
}

// diskRetry is how often a disk tier that can't be had is tried again.
const diskRetry = 2 * time.Second

// keepOpeningDisk logs an error once, not each time it comes again.
func (c *Cache) keepOpeningDisk(last error) {
	tick := time.NewTicker(diskRetry)
	defer tick.Stop()
	for {
		select {
		case <-c.ctx.Done():
			c.giveOpeningUp()
			return
		case <-tick.C:
			err := c.openDisk()
			if err == nil {
				c.log.Info("disk tier opened after all", "dir", c.dir)
				return
			}
			if err.Error() != last.Error() {
				c.logNoDisk(err)
			}
			last = err
		}
	}
}

func (c *Cache) openDisk() error {
	c.mu.Lock()
	limits := c.mu.limits.Disk
	c.mu.Unlock()
	tier, err := c.openInTime(limits)
	if err != nil {
		c.diskErr.Store(&err)
		return err
	}
	c.use(tier)
	c.diskErr.Store(nil)
	c.opening.Go(func() { c.scrub(tier) })
	c.limitDisk() // a SetLimits since then has found no tier
	return nil
}

// maxUnopened bounds the memory of what was forgotten while there was no tier, some
// 100 bytes each. What is beyond that may come back.
const maxUnopened = 100_000

// tierToForget returns the tier to remove a file from. If there is none yet, the
// file is removed when there is.
func (c *Cache) tierToForget(key string) *disk.Tier {
	c.mu.Lock()
	defer c.mu.Unlock()
	tier := c.disk.Load()
	if tier == nil && c.dir != "" && !c.mu.closed && len(c.mu.unopened) < maxUnopened {
		c.mu.unopened[key] = struct{}{}
	}
	return tier
}

// use makes a tier that has been opened the cache's, without the files that were
// forgotten before.
func (c *Cache) use(tier *disk.Tier) {
	for {
		forgotten := c.storeTier(tier)
		if len(forgotten) == 0 {
			return
		}
		for key := range forgotten {
			if err := tier.Remove(key); err != nil {
				c.log.Error("disk tier entry not removed", "key", key, "error", err)
			}
		}
	}
}

// storeTier stores the tier unless there are files to remove from it first.
func (c *Cache) storeTier(tier *disk.Tier) (forgotten map[string]struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	forgotten, c.mu.unopened = c.mu.unopened, make(map[string]struct{})
	if len(forgotten) == 0 {
		c.disk.Store(tier)
	}
	return forgotten
}

// openPatience is how long the opening of the disk tier is waited for.
const openPatience = 5 * time.Second

// opened is what came of an attempt to open the disk tier.
type opened struct {
	tier *disk.Tier
	err  error
}

// openInTime opens the disk tier, or goes on with an attempt that took too long.
// It is called by one goroutine at a time.
func (c *Cache) openInTime(limits disk.Limits) (*disk.Tier, error) {
	if c.attempt == nil {
		attempt := make(chan opened, 1)
		c.attempt = attempt
		go func() {
			tier, err := disk.Open(c.dir, limits, c.log)
			attempt <- opened{tier, err}
		}()
	}
	timer := time.NewTimer(openPatience)
	defer timer.Stop()
	select {
	case o := <-c.attempt:
		c.attempt = nil
		return o.tier, o.err
	case <-timer.C:
		return nil, fmt.Errorf("open disk tier %s: %w", c.dir, disk.ErrStalled)
	}
}

// giveOpeningUp closes what an attempt that takes too long opens in the end.
func (c *Cache) giveOpeningUp() {
	attempt := c.attempt
	if attempt == nil {
		return
	}
	go func() {
		if o := <-attempt; o.err == nil {
			o.tier.Close()
		}
	}()
}
