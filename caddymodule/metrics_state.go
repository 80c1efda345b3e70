package caddymodule

import (
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/stevedores-org/nix-cache/caddymodule/cache/disk"
)

// The collectors of what is asked for when the metrics are.

// buildInfo tells which version runs.
var buildInfo = prometheus.NewGaugeFunc(prometheus.GaugeOpts{
	Name: metricsPrefix + "build_info", Help: "1; the version is in the labels.",
	ConstLabels: prometheus.Labels{"version": moduleVersion(), "goversion": runtime.Version()},
}, func() float64 { return 1 })

const modulePath = "github.com/stevedores-org/nix-cache"

// moduleVersion is this module's version in the program, whichever built it.
func moduleVersion() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, m := range append(info.Deps, &info.Main) {
		if m.Path == modulePath && m.Version != "" {
			return m.Version
		}
	}
	return "unknown"
}

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(metricsPrefix+name, help, withCache(labels), nil)
}

var (
	fillsInFlightDesc = describe("fills_in_flight", "Fills under way.")
	fillsDesc         = describe("fills_total", "Fills of large files by how they ended.", "outcome")
	tierBytesDesc     = describe("tier_bytes", "Bytes that a tier takes up.", "tier")
	tierEntriesDesc   = describe("tier_entries", "Files in a tier.", "tier")
	tierLimitDesc     = describe("tier_limit_bytes", "The most bytes that a tier may take up.", "tier")
	evictionsDesc     = describe("evictions_total", "Files evicted from a tier.", "tier")
	waitingDesc       = describe("origin_requests_waiting", "Requests that wait until they may be sent to the origin.")
	spoolDesc         = describe("spool_bytes", "Bytes of parts of uploads that are not sent yet, by where they lie.", "place")
	diskOpenDesc      = describe("disk_tier_open", "1 if the disk tier is in use, 0 if it can't be opened.")
)

// fillCollector reads the counters of the fills.
type fillCollector struct{ m *processMetrics }

func (fillCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- fillsInFlightDesc
	ch <- fillsDesc
}

func (c fillCollector) Collect(ch chan<- prometheus.Metric) {
	c.m.mu.Lock()
	defer c.m.mu.Unlock()
	for name, fills := range c.m.mu.fills {
		ch <- prometheus.MustNewConstMetric(fillsInFlightDesc, prometheus.GaugeValue, float64(fills.InFlight.Load()), name)
		for outcome, n := range fills.Outcomes() {
			ch <- prometheus.MustNewConstMetric(fillsDesc, prometheus.CounterValue, float64(n), name, outcome)
		}
	}
}

// originCollector reads the state of what the handlers ask. Those of one name are
// added up.
type originCollector struct{}

func (originCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- waitingDesc
	ch <- spoolDesc
}

func (originCollector) Collect(ch chan<- prometheus.Metric) {
	waiting := map[string]int{}
	spooled := map[spoolLabels]int64{}
	for _, h := range running.all() {
		waiting[h.set.name] += h.waiting()
		if bucket, ok := bucketOf(h.origin); ok {
			memory, onDisk := bucket.SpoolBytes()
			spooled[spoolLabels{h.set.name, "memory"}] += memory
			spooled[spoolLabels{h.set.name, "disk"}] += onDisk
		}
	}
	for labels, n := range spooled {
		ch <- prometheus.MustNewConstMetric(spoolDesc, prometheus.GaugeValue, float64(n), labels.name, labels.place)
	}
	for name, n := range waiting {
		ch <- prometheus.MustNewConstMetric(waitingDesc, prometheus.GaugeValue, float64(n), name)
	}
}

type spoolLabels struct{ name, place string }

// tierCollector reads the state of the caches in the pool. A cache that several
// handlers share is labelled with all their names; those with the same labels
// are added up.
type tierCollector struct{}

func (tierCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- tierBytesDesc
	ch <- tierEntriesDesc
	ch <- tierLimitDesc
	ch <- evictionsDesc
	ch <- diskOpenDesc
}

func (tierCollector) Collect(ch chan<- prometheus.Metric) {
	sums := map[tierLabels]disk.Counters{}
	open := map[string]bool{} // by names, of those that are to have a disk tier
	caches.Range(func(_, v any) bool {
		p := v.(*pooledCache)
		names, tiers := p.names.String(), p.cache.Tiers()
		addTier(sums, tierLabels{names, "memory"}, tiers.Memory)
		if tiers.Disk.Limit > 0 { // while the disk hangs, too
			addTier(sums, tierLabels{names, "disk"}, tiers.Disk)
		}
		if others, known := open[names]; tiers.DiskWanted {
			open[names] = tiers.DiskOpen && (others || !known)
		}
		return true
	})
	for labels, sum := range sums {
		collectTier(ch, labels, sum)
	}
	for names, isOpen := range open {
		ch <- prometheus.MustNewConstMetric(diskOpenDesc, prometheus.GaugeValue, gaugeOf(isOpen), names)
	}
}

// tierLabels are the labels of a tier. Caches of the same name, as those that
// nobody named, have them in common, and a registry that is given a series
// twice answers with nothing but an error.
type tierLabels struct{ names, tier string }

func addTier(sums map[tierLabels]disk.Counters, labels tierLabels, c disk.Counters) {
	sum := sums[labels]
	sum.Bytes += c.Bytes
	sum.Entries += c.Entries
	sum.Limit += c.Limit
	sum.Evictions += c.Evictions
	sums[labels] = sum
}

func collectTier(ch chan<- prometheus.Metric, labels tierLabels, c disk.Counters) {
	gauge := func(desc *prometheus.Desc, n int64) {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, float64(n), labels.names, labels.tier)
	}
	gauge(tierBytesDesc, c.Bytes)
	gauge(tierEntriesDesc, c.Entries)
	gauge(tierLimitDesc, c.Limit)
	ch <- prometheus.MustNewConstMetric(evictionsDesc, prometheus.CounterValue, float64(c.Evictions), labels.names, labels.tier)
}

// nameSet is the names of a cache's users.
type nameSet struct {
	mu struct {
		sync.Mutex
		names []string
	}
}

func (s *nameSet) add(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i, found := slices.BinarySearch(s.mu.names, name); !found {
		s.mu.names = slices.Insert(s.mu.names, i, name)
	}
}

func (s *nameSet) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.mu.names, ",")
}
