package cache

import (
	"errors"
	"sync"
	"time"

	"github.com/stevedores-org/nix-cache/caddymodule/nix"
)

const (
	// damageMemory is how long a damaged file is not asked for again: longer
	// than a client goes on trying to get the end of what it was refused.
	damageMemory = 5 * time.Minute

	// mixedMemory is the same where it may have been the disk's fault.
	mixedMemory = 30 * time.Second

	// maxDamaged bounds the entries.
	maxDamaged = 10_000
)

// damage remembers which files the origin has damaged, so that nobody gets them
// piece by piece. The zero value is ready for use.
type damage struct {
	mu struct {
		sync.Mutex
		known   map[string]damaged
		watches map[*watch]struct{}
	}
}

type damaged struct {
	err   error
	until time.Time
}

// watch is of one reading of a file, from before it is opened at the origin. What
// it finds counts unless the file has been forgotten since.
type watch struct {
	key      string
	outdated bool // guarded by damage.mu
}

// of returns what is wrong with a file; nil if nothing is known.
func (d *damage) of(key string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	known, ok := d.mu.known[key]
	if !ok || time.Now().Before(known.until) {
		return known.err
	}
	delete(d.mu.known, key)
	return nil
}

func (d *damage) watch(key string) *watch {
	w := &watch{key: key}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.mu.watches == nil {
		d.mu.known = make(map[string]damaged)
		d.mu.watches = make(map[*watch]struct{})
	}
	d.mu.watches[w] = struct{}{}
	return w
}

func (d *damage) end(w *watch) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.mu.watches, w)
}

func (d *damage) add(w *watch, err error, memory time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if w.outdated {
		return
	}
	for other := range d.mu.known { // to make room, whichever comes first
		if len(d.mu.known) < maxDamaged {
			break
		}
		delete(d.mu.known, other)
	}
	d.mu.known[w.key] = damaged{err, time.Now().Add(memory)}
}

func (d *damage) forget(key string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.mu.known, key)
	for w := range d.mu.watches {
		w.outdated = w.outdated || w.key == key
	}
}

// foundDamaged notes that the origin's copy of a file is not what its name says.
func (n *Namespace) foundDamaged(p nix.CachePath, w *watch, err error) {
	n.counters.mismatched.Add(1)
	n.log.Error("damaged at the origin, and refused for some minutes: push the package again, with a token that may upload, to replace it",
		"path", p.String(), "error", err)
	n.cache.damage.add(w, err, damageMemory)
}

// foundMixed notes that what a failing disk had of a file, and the rest of the
// origin's copy, are not what its name says.
func (n *Namespace) foundMixed(p nix.CachePath, w *watch, err error) {
	n.log.Error("answer ended before its end: what was sent from the disk or what the origin has is damaged; refused for a moment, then asked for anew", "path", p.String(), "error", err)
	n.cache.damage.add(w, err, mixedMemory)
}

// Damaged reports whether the origin's copy of a file has been found damaged lately.
func (n *Namespace) Damaged(p nix.CachePath) bool { return n.cache.damage.of(n.key(p)) != nil }

func isDamage(err error) bool {
	var damaged *DamagedError
	return errors.As(err, &damaged)
}
