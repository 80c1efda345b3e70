package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

const (
	wideSize   = 1 << 30
	slowRate   = 256 << 10 // bytes a second
	memoryFree = 150 << 20 // what Caddy may have beside its tier in memory
	memoryTier = 256 << 20 // the default
)

// errEnough ends a download that has run long enough.
var errEnough = errors.New("enough")

// memory: what does it take to serve many, half of them slow? A Caddy of its
// own, so that nothing measured before counts, whose tier in memory is full.
func (w *world) memory() error {
	f, err := w.newNAR(wideSize)
	if err != nil {
		return err
	}
	dir := w.options.dir
	small := filepath.Join(dir, "small")
	c, err := startCaddy(dir, "wide", "",
		site{name: "r2", directives: nixCache(w.origin.address, filepath.Join(dir, "tier-wide"))},
		site{name: "dir", directives: "nix_cache {\norigin dir " + small + "\n}"})
	if err != nil {
		return err
	}
	defer c.stop()
	if err := fillMemory(small, c.address["dir"]); err != nil {
		return err
	}
	if err := c.resetPeak(); err != nil {
		return err
	}
	w.origin.far.Store(true)
	defer w.origin.far.Store(false)
	s := subject{"nix_cache", c.process, c.address["r2"], f.path, nil}
	until := time.Now().Add(w.wideSpan())
	if err := together(herdSize, func(i int) error { return s.follow(until, i%2 == 0) }); err != nil {
		return err
	}
	peak, err := c.peak()
	if err != nil {
		return err
	}
	w.report.atMost("full tier of 256 MiB in memory, 200 clients of a cold 1 GiB NAR, half of them slow: most resident memory",
		float64(peak)/(1<<20), (memoryTier+memoryFree)/(1<<20), "MiB")
	return nil
}

// smallFiles are more narinfos than a tier of memoryTier has room for.
const smallFiles = 280_000

// fillMemory makes narinfos and asks for each once, so that the tier in memory
// is full.
func fillMemory(dir, address string) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	const clients = 4
	return together(clients, func(first int) error {
		c, err := dialPlain(address, "")
		if err != nil {
			return err
		}
		defer c.close()
		for i := first; i < smallFiles; i += clients {
			name := fmt.Sprintf("%032d", i)
			if err := os.WriteFile(filepath.Join(dir, name+".narinfo"), []byte(narinfoText(name)), 0o644); err != nil {
				return err
			}
			c.(*plainClient).request = plainRequest(address, "/"+name+".narinfo")
			if _, _, err := c.get(io.Discard); err != nil {
				return err
			}
		}
		return nil
	})
}

// wideSpan is how long the clients stay: the fill takes some 15 s.
func (w *world) wideSpan() time.Duration {
	if w.options.full {
		return 5 * time.Minute
	}
	return 25 * time.Second
}

// follow downloads the file until it has all of it, or the time is over.
func (s subject) follow(until time.Time, slow bool) error {
	var sink io.Writer = timedSink{until}
	if slow {
		sink = &slowSink{timedSink{until}}
	}
	if _, _, err := s.once(sink); err != nil && !errors.Is(err, errEnough) {
		return fmt.Errorf("follow the fill: %w", err)
	}
	return nil
}

type timedSink struct{ until time.Time }

func (s timedSink) Write(p []byte) (int, error) {
	if time.Now().After(s.until) {
		return 0, errEnough
	}
	return len(p), nil
}

// slowSink takes slowRate bytes a second.
type slowSink struct{ timedSink }

func (s *slowSink) Write(p []byte) (int, error) {
	pause := time.Duration(len(p)) * time.Second / slowRate
	time.Sleep(min(pause, time.Until(s.until)))
	return s.timedSink.Write(p)
}
