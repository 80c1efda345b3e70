package disk

import (
	"fmt"
	"os"
	"runtime"
	"testing"
)

// benchName is as long as the name of a NAR's file is.
func benchName(i int) string {
	return fmt.Sprintf("1a2b3c4d-%052d.nar.xz,123456,,%x", i, i)
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

// BenchmarkScan measures the time until all names are in the index.
func BenchmarkScan(b *testing.B) {
	const n = 200_000
	dir := b.TempDir()
	tier := openLogged(b, dir, 1<<50, quiet())
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
	tier.Close()
	for b.Loop() {
		tier := openLogged(b, dir, 1<<50, quiet())
		if got := tier.Counters().Entries; got != n {
			b.Fatalf("%d entries, want %d", got, n)
		}
		tier.Close()
	}
}
