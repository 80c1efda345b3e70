package disk

import (
	"fmt"
	"testing"
)

// ratios are the parts of the requests and of the bytes that a cache served.
type ratios struct{ requests, bytes float64 }

// play asks a cache for what the workload asks. The first third of the requests,
// which fill it, don't count.
func play(w *workload, c cache) ratios {
	var requests, hits, bytes, hitBytes int64
	for i, object := range w.asked {
		size := w.sizes[object]
		hit := c.ask(object, size)
		if i < len(w.asked)/3 {
			continue
		}
		requests++
		bytes += size
		if hit {
			hits++
			hitBytes += size
		}
	}
	return ratios{float64(hits) / float64(requests), float64(hitBytes) / float64(bytes)}
}

// meanOf plays the workload of each seed below n to a cache of that many percent
// of its bytes.
func meanOf(n uint64, of func(seed uint64) *workload, percent int64, newCache func(limit int64) cache) (mean ratios) {
	for seed := range n {
		w := of(seed)
		r := play(w, newCache(w.bytes()*percent/100))
		mean.requests += r.requests / float64(n)
		mean.bytes += r.bytes / float64(n)
	}
	return mean
}

// Bytes may fall short by a little: space that is kept for light files, which
// gains many requests, is not there for heavy ones. Requests may only by what
// little a cache that has room for nearly everything is decided by.
const (
	fewerRequests = 0.001
	fewerBytes    = 0.003
)

func TestFleetGetsMoreHitsThanWithPlainS3FIFO(t *testing.T) {
	few := fleet{machines: 20, releases: 20, closure: 1000, jobs: 6, busy: 4}
	many := fleet{machines: 20, releases: 20, closure: 1000, jobs: 6, busy: 20}
	for _, tc := range []struct {
		name string
		fleet
		size sizeOf
	}{
		{"NARs, few machines at once", few, narSize},
		{"NARs, many machines at once", many, narSize},
		{"narinfos, few machines at once", few, narinfoSize},
		{"narinfos, many machines at once", many, narinfoSize},
	} {
		tc.fleet.size = tc.size
		for _, percent := range []int64{2, 10, 30} {
			t.Run(fmt.Sprintf("%s, a cache for %d %%", tc.name, percent), func(t *testing.T) {
				t.Parallel()
				plain := meanOf(3, tc.workload, percent, newTextbook)
				ours := meanOf(3, tc.workload, percent, newTiered)
				t.Logf("hits among requests %.3f, plain S3-FIFO %.3f; among bytes %.3f, plain %.3f",
					ours.requests, plain.requests, ours.bytes, plain.bytes)
				if ours.requests < plain.requests-fewerRequests || ours.bytes < plain.bytes-fewerBytes {
					t.Error("the fleet gets fewer hits than with plain S3-FIFO")
				}
			})
		}
	}
}

// BenchmarkHitRatio prints the hit ratios on the full workloads as metrics: of
// requests and of bytes, in a cache of so many percent of all bytes.
func BenchmarkHitRatio(b *testing.B) {
	for _, w := range []struct {
		name string
		of   func(seed uint64) *workload
	}{
		{"popular", popular{objects: 150_000, requests: 1_000_000, size: narSize}.workload},
		{"fleet", fleet{machines: 20, releases: 40, closure: 3000, jobs: 6, busy: 4, size: narSize}.workload},
		{"fleet-narinfo", fleet{machines: 20, releases: 40, closure: 3000, jobs: 6, busy: 4, size: narinfoSize}.workload},
		{"fleet-without-jobs", fleet{machines: 20, releases: 40, closure: 3000, busy: 4, size: narSize}.workload},
		{"fleet-of-100", fleet{machines: 100, releases: 20, closure: 1000, jobs: 20, busy: 20, size: narSize}.workload},
	} {
		for _, c := range []struct {
			name string
			new  func(limit int64) cache
		}{{"lru", newLRU}, {"plain", newTextbook}, {"eager", newEager}, {"tier", newTiered}} {
			b.Run(w.name+"/"+c.name, func(b *testing.B) {
				for b.Loop() {
					for _, percent := range []int64{2, 10, 30} {
						mean := meanOf(3, w.of, percent, c.new)
						b.ReportMetric(mean.requests, fmt.Sprintf("requests@%02d%%", percent))
						b.ReportMetric(mean.bytes, fmt.Sprintf("bytes@%02d%%", percent))
					}
				}
				b.ReportMetric(0, "ns/op")
			})
		}
	}
}
