package caddymodule

import (
	"cmp"
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stevedores-org/nix-cache/caddymodule/nix"
	"github.com/stevedores-org/nix-cache/caddymodule/origin/r2"
)

const (
	// orphanAge is from when on an upload to a bucket is not under way any
	// more, here or on another node.
	orphanAge = 24 * time.Hour

	// orphanInterval is how often they are looked for, first at the start.
	orphanInterval = 24 * time.Hour
)

// orphans removes from buckets what uploads left that ended with their process.
type orphans struct {
	log    *slog.Logger
	ctx    context.Context // ends by stop
	cancel context.CancelFunc
	loops  sync.WaitGroup
	mu     struct {
		sync.Mutex
		buckets map[string]*watchedBucket // of the config in force, by String
	}
}

type watchedBucket struct {
	origin atomic.Pointer[r2.Origin] // as the latest config has it
	ctx    context.Context
	cancel context.CancelFunc
}

func newOrphans(log *slog.Logger) *orphans {
	ctx, cancel := context.WithCancel(context.Background())
	return &orphans{log: log, ctx: ctx, cancel: cancel}
}

// watch looks after these buckets from now on, and after no others. One that
// was known is not listed anew.
func (o *orphans) watch(buckets []*r2.Origin) {
	o.mu.Lock()
	defer o.mu.Unlock()
	before := o.mu.buckets
	o.mu.buckets = make(map[string]*watchedBucket)
	for _, bucket := range buckets {
		name := bucket.String()
		b := cmp.Or(o.mu.buckets[name], before[name])
		if b == nil {
			b = &watchedBucket{}
			b.ctx, b.cancel = context.WithCancel(o.ctx)
			b.origin.Store(bucket)
			o.loops.Go(func() { o.loop(b) })
		}
		b.origin.Store(bucket)
		o.mu.buckets[name] = b
		delete(before, name)
	}
	for _, gone := range before {
		gone.cancel()
	}
}

func (o *orphans) loop(b *watchedBucket) {
	tick := time.NewTicker(orphanInterval)
	defer tick.Stop()
	for {
		o.abort(b)
		select {
		case <-tick.C:
		case <-b.ctx.Done():
			return
		}
	}
}

// abort is for what can wait: an error is a line in the log.
func (o *orphans) abort(b *watchedBucket) {
	bucket := b.origin.Load()
	n, err := bucket.AbortOrphans(b.ctx, r2.Orphans{OlderThan: orphanAge, Ours: isCachePath})
	log := o.log.With("origin", bucket.String())
	if n > 0 {
		log.Info("uploads that had been cut off were removed from the bucket", "count", n)
	}
	if err != nil && b.ctx.Err() == nil {
		log.Warn("uploads that were cut off are not removed from the bucket before tomorrow; R2 does so itself after a week", "error", err)
	}
}

// stop ends the loops and waits for them.
func (o *orphans) stop() {
	o.cancel()
	o.loops.Wait()
}

func isCachePath(path string) bool {
	_, err := nix.ParseCachePath(path)
	return err == nil
}
