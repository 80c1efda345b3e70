package disk

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"testing"
	"time"
)

// benchName is as long as the name of a NAR's file is.
func benchName(i int) string {
	return fmt.Sprintf("1a2b3c4d-%052d.nar.xz,0,,%s", i, strconv.FormatInt(int64(i), 36))
}

func BenchmarkOpen(b *testing.B) {
	tier := openTier(b, b.TempDir(), roomy)
	mustStore(b, tier, "key", 100<<10)
	b.ReportAllocs()
	for b.Loop() {
		f, _, err := tier.Open("key", noCheck)
		if err != nil {
			b.Fatal(err)
		}
		f.Close()
	}
}

func BenchmarkStat(b *testing.B) {
	tier := openTier(b, b.TempDir(), roomy)
	mustStore(b, tier, "key", 100)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			tier.Stat("key")
		}
	})
}

// BenchmarkIndex measures the heap that an entry takes up.
func BenchmarkIndex(b *testing.B) {
	const n = 1_000_000
	for b.Loop() {
		before := heap()
		var x index
		x.init(Limits{Bytes: 1 << 50})
		for i := range n {
			name := benchName(i)
			key, meta, _, ok := parseName(name)
			if !ok {
				b.Fatal(name)
			}
			x.add(newEntry(name, key, meta.Size), yes)
		}
		b.ReportMetric(float64(heap()-before)/n, "heap-B/entry")
		runtime.KeepAlive(&x)
	}
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// BenchmarkStart measures a start with a million files: the time until one of
// them is served, until all names are in the index, and the heap they take up.
func BenchmarkStart(b *testing.B) {
	const n = 1_000_000
	dir := b.TempDir()
	makeFiles(b, dir, n)
	var served, scanned time.Duration
	var taken int64
	starts := 0
	for b.Loop() {
		before, began := heap(), time.Now()
		tier, err := Open(dir, Limits{Bytes: 1 << 50}, quiet())
		if err != nil {
			b.Fatal(err)
		}
		f, _, err := tier.Open(keyOf(benchName(n/2)), noCheck)
		if err != nil {
			b.Fatal(err)
		}
		served += time.Since(began)
		f.Close()
		<-tier.Scanned()
		scanned += time.Since(began)
		taken += heap() - before
		if got := tier.Counters().Entries; got != n {
			b.Fatalf("%d entries, want %d", got, n)
		}
		tier.Close()
		starts++
	}
	b.ReportMetric(served.Seconds()/float64(starts), "s-to-first-hit")
	b.ReportMetric(scanned.Seconds()/float64(starts), "s-to-scanned")
	b.ReportMetric(float64(taken)/float64(starts)/n, "heap-B/entry")
}

// makeFiles puts n empty files under dir as a tier that has been closed leaves
// them there.
func makeFiles(b *testing.B, dir string, n int) {
	tier := openLogged(b, dir, 1<<50, quiet())
	defer tier.Close()
	for i := range shardCount {
		if err := os.MkdirAll(tier.shard(i), 0o700); err != nil {
			b.Fatal(err)
		}
	}
	for i := range n {
		if err := os.WriteFile(tier.path(benchName(i)), nil, 0o600); err != nil {
			b.Fatal(err)
		}
	}
}
