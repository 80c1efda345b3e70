package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"
)

const (
	pushSize   = 1 << 30
	pushToken  = "bench-token"
	pushMemory = 200 // MiB beyond the start
	pushRatio  = 1.25

	// pushPages is what a push takes up in memory: the file itself, the parts
	// and the whole of the S3 server, and the disk tier's; and two to spare.
	pushPages = 6 * pushSize

	partSize  = 16 << 20 // of nix_cache, and for the SDK
	partsOpen = 2        // as well
)

// way is one of bringing a file into the bucket.
type way struct {
	name string
	push func(context.Context, file) error
	took []float64 // seconds
	cpu  []float64 // of our server, in seconds
}

// push: what does an upload through the cache cost, beside one straight into the
// bucket? The S3 server has a core to itself, and its files in memory: like one on
// a machine of its own it shares neither with the cache, which writes the NAR to
// its disk tier. The cache shares the other core with the client.
func (w *world) push() error {
	memory, err := os.MkdirTemp("/dev/shm", "nix-cache-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(memory)
	release, err := keepMemory(memory, pushPages)
	if err != nil {
		return err
	}
	defer release()
	bucket, err := startS3(w.ctx, memory)
	if err != nil {
		return err
	}
	defer bucket.stop()
	c, err := startCaddy(w.options.dir, "push", "", site{name: "r2", directives: pushCache(bucket.address, w.options.dir+"/tier-push")})
	if err != nil {
		return err
	}
	defer c.stop()
	if err := c.moveTo(clientCore); err != nil {
		return err
	}
	start, err := c.resident()
	if err != nil {
		return err
	}
	if err := c.resetPeak(); err != nil {
		return err
	}
	nar, err := w.maker.plainNAR(pushSize)
	if err != nil {
		return err
	}
	through := func(ctx context.Context, f file) error { return put(ctx, "http://"+c.address["r2"]+f.path, f) }
	ways := []*way{
		{name: "nix_cache", push: through},
		{name: "straight, one PUT", push: bucket.putWhole},
		{name: "straight, parts by the AWS SDK", push: bucket.putParts},
	}
	if err := w.pushInTurn(c, bucket, nar, ways); err != nil {
		return err
	}
	peak, err := c.peak()
	if err != nil {
		return err
	}
	t := table{title: "A push of a NAR of 1 GiB, not compressed", header: []string{"", "seconds", "× one PUT", "CPU per GB"}}
	base := median(ways[1].took)
	for _, way := range ways {
		perGB := ""
		if way == ways[0] {
			perGB = fmt.Sprintf("%.2f s", median(way.cpu)/(pushSize/1e9))
		}
		t.add(way.name, fmt.Sprintf("%.2f", median(way.took)), ratio(median(way.took)/base), perGB)
	}
	w.report.tables = append(w.report.tables, t)
	w.report.atMost("push of a 1 GiB NAR", median(ways[0].took)/base, pushRatio, "× one PUT straight to the bucket")
	w.report.atMost("its most resident memory, beyond the start", float64(peak-start)/(1<<20), pushMemory, "MiB")
	return w.pushCompressed(c, bucket, through)
}

// pushCompressed: the server decompresses what it takes in, to know the hash
// that its narinfo will be signed for.
func (w *world) pushCompressed(c *caddy, bucket *s3Server, through func(context.Context, file) error) error {
	t := table{title: "Pushes of a NAR that is compressed: a program of Go's", header: []string{"compression", "MB of the NAR", "MB sent", "MB of the NAR/s", "CPU per GB of the NAR"}}
	program, err := os.ReadFile(os.Getenv("CADDY"))
	if err != nil {
		return err
	}
	for _, compression := range []string{"", ".zst", ".xz"} {
		f, err := w.maker.compressed(program, compression)
		if err != nil {
			return err
		}
		ways := []*way{{name: compression, push: through}}
		if err := w.pushInTurn(c, bucket, f, ways); err != nil {
			return err
		}
		size := float64(len(program))
		t.add(cmp.Or(strings.TrimPrefix(compression, "."), "none"),
			fmt.Sprintf("%.0f", size/1e6), fmt.Sprintf("%.0f", float64(f.size)/1e6),
			fmt.Sprintf("%.0f", size/1e6/median(ways[0].took)), fmt.Sprintf("%.2f s", median(ways[0].cpu)/(size/1e9)))
	}
	w.report.tables = append(w.report.tables, t)
	return nil
}

// pushInTurn pushes the file by each way, round by round. It is new to the cache
// and to the bucket each time.
func (w *world) pushInTurn(c *caddy, bucket *s3Server, f file, ways []*way) error {
	for range w.options.rounds() {
		for _, way := range ways {
			if err := forget(w.ctx, "http://"+c.address["r2"]+f.path); err != nil {
				return err
			}
			if err := bucket.remove(w.ctx, f); err != nil {
				return err
			}
			syscall.Sync() // what was written before is not to hold this up
			before, err := c.cpu()
			if err != nil {
				return err
			}
			start := time.Now()
			if err := way.push(w.ctx, f); err != nil {
				return fmt.Errorf("%s: %w", way.name, err)
			}
			way.took = append(way.took, time.Since(start).Seconds())
			after, err := c.cpu()
			if err != nil {
				return err
			}
			way.cpu = append(way.cpu, (after - before).Seconds())
		}
	}
	return nil
}

func pushCache(address, disk string) string {
	text := nixCache(address, disk)
	return strings.TrimSuffix(text, "}") + "token bench " + pushToken + " upload delete\n}"
}
