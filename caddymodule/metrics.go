package caddymodule

import (
	"errors"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/caddyserver/caddy/v2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/stevedores-org/nix-cache/caddymodule/cache"
	"github.com/stevedores-org/nix-cache/caddymodule/cache/disk"
	"github.com/stevedores-org/nix-cache/caddymodule/nix"
	"github.com/stevedores-org/nix-cache/caddymodule/origin/r2"
)

// The collectors are of the process, not of a config: Caddy makes a registry
// with each config, and counters have to survive that.
var metrics = newMetrics()

const metricsPrefix = "caddy_nix_cache_"

type processMetrics struct {
	requests, lookups, served, uploads, authFailures *prometheus.CounterVec

	originRequests, originBytes *prometheus.CounterVec
	originSeconds               *prometheus.HistogramVec

	mu struct {
		sync.Mutex
		fills map[string]*cache.Counters // by cache name
	}
}

func newMetrics() *processMetrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: metricsPrefix + name, Help: help}, append([]string{"cache"}, labels...))
	}
	m := &processMetrics{
		requests:       counter("requests_total", "Requests answered.", "kind", "method", "status"),
		lookups:        counter("lookups_total", "Look-ups of files by how they were answered.", "kind", "result"),
		served:         counter("served_bytes_total", "Bytes of files sent to clients by where they came from.", "kind", "source"),
		uploads:        counter("uploads_total", "Uploads by how they ended.", "kind", "outcome", "reason"),
		authFailures:   counter("auth_failures_total", "Requests refused for their credential.", "reason"),
		originRequests: counter("origin_requests_total", "Requests to the origin. Class is what the origin bills.", "operation", "class", "outcome"),
		originBytes:    counter("origin_bytes_total", "Bytes of files received from and sent to the origin.", "operation", "class", "outcome"),
		originSeconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: metricsPrefix + "origin_request_seconds", Help: "Duration of requests to the origin, the body included.",
			Buckets: prometheus.ExponentialBuckets(0.005, 2.5, 10),
		}, []string{"cache", "operation", "class", "outcome"}),
	}
	m.mu.fills = make(map[string]*cache.Counters)
	return m
}

func (m *processMetrics) collectors() []prometheus.Collector {
	return []prometheus.Collector{
		m.requests, m.lookups, m.served, m.uploads, m.authFailures,
		m.originRequests, m.originBytes, m.originSeconds, fillCollector{m}, tierCollector{},
	}
}

// handlerMetrics are the metrics of one cache name.
type handlerMetrics struct {
	name  string
	fills *cache.Counters
	files map[fileLookup]fileCounters // resolved beforehand
}

// fileLookup is a look-up that found a file.
type fileLookup struct {
	kind   nix.Kind
	result cache.Result
}

type fileCounters struct{ lookups, bytes prometheus.Counter }

func newHandlerMetrics(name string, fills *cache.Counters) *handlerMetrics {
	m := &handlerMetrics{name: name, fills: fills, files: map[fileLookup]fileCounters{}}
	for kind := range nix.Kinds() {
		for result, source := range sources {
			m.files[fileLookup{kind, result}] = fileCounters{
				lookups: metrics.lookups.WithLabelValues(name, kind.String(), result.String()),
				bytes:   metrics.served.WithLabelValues(name, kind.String(), source),
			}
		}
	}
	return m
}

// sources are the labels of where the bytes of a found file come from.
var sources = map[cache.Result]string{
	cache.Memory:    "memory",
	cache.Disk:      "disk",
	cache.Miss:      "fill",
	cache.Collapsed: "fill",
	cache.Bypass:    "origin",
}

// register enters the collectors into the registry of a config, once.
func (m *processMetrics) register(registry prometheus.Registerer) error {
	for _, c := range m.collectors() {
		err := registry.Register(c)
		if err != nil && !errors.As(err, new(prometheus.AlreadyRegisteredError)) {
			return err
		}
	}
	return nil
}

// metricsFor returns the metrics of a cache name, which its config then shows.
func metricsFor(ctx caddy.Context, name string) (*handlerMetrics, error) {
	if err := metrics.register(ctx.GetMetricsRegistry()); err != nil {
		return nil, err
	}
	metrics.mu.Lock()
	defer metrics.mu.Unlock()
	fills := metrics.mu.fills[name]
	if fills == nil {
		fills = new(cache.Counters)
		metrics.mu.fills[name] = fills
	}
	return newHandlerMetrics(name, fills), nil
}

func (m *handlerMetrics) request(kind, method string, status int) {
	metrics.requests.WithLabelValues(m.name, kind, method, strconv.Itoa(status)).Inc()
}

// lookup counts a look-up that found nothing.
func (m *handlerMetrics) lookup(kind string, result cache.Result) {
	metrics.lookups.WithLabelValues(m.name, kind, result.String()).Inc()
}

// found counts a look-up that found a file, and returns the counter of the
// bytes that are sent of it.
func (m *handlerMetrics) found(kind nix.Kind, result cache.Result) prometheus.Counter {
	counters := m.files[fileLookup{kind, result}]
	counters.lookups.Inc()
	return counters.bytes
}

func (m *handlerMetrics) upload(kind, outcome, reason string) {
	metrics.uploads.WithLabelValues(m.name, kind, outcome, reason).Inc()
}

func (m *handlerMetrics) authFailure(reason string) {
	metrics.authFailures.WithLabelValues(m.name, reason).Inc()
}

func (m *handlerMetrics) observeOrigin(op r2.Operation) {
	labels := []string{m.name, op.Name, op.Class, op.Outcome}
	metrics.originRequests.WithLabelValues(labels...).Inc()
	metrics.originBytes.WithLabelValues(labels...).Add(float64(op.Bytes))
	metrics.originSeconds.WithLabelValues(labels...).Observe(op.Duration.Seconds())
}

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(metricsPrefix+name, help, append([]string{"cache"}, labels...), nil)
}

var (
	fillsInFlightDesc = describe("fills_in_flight", "Fills under way.")
	fillsDesc         = describe("fills_total", "Fills of large files by how they ended.", "outcome")
	tierBytesDesc     = describe("tier_bytes", "Bytes that a tier takes up.", "tier")
	tierEntriesDesc   = describe("tier_entries", "Files in a tier.", "tier")
	tierLimitDesc     = describe("tier_limit_bytes", "The most bytes that a tier may take up.", "tier")
	evictionsDesc     = describe("evictions_total", "Files evicted from a tier.", "tier")
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

// tierCollector reads the state of the caches in the pool. A cache that several
// handlers share is labelled with all their names; those with the same labels
// are added up.
type tierCollector struct{}

func (tierCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- tierBytesDesc
	ch <- tierEntriesDesc
	ch <- tierLimitDesc
	ch <- evictionsDesc
}

func (tierCollector) Collect(ch chan<- prometheus.Metric) {
	sums := map[tierLabels]disk.Counters{}
	caches.Range(func(_, v any) bool {
		p := v.(*pooledCache)
		names, tiers := p.names.String(), p.cache.Tiers()
		addTier(sums, tierLabels{names, "memory"}, tiers.Memory)
		if tiers.DiskOpen {
			addTier(sums, tierLabels{names, "disk"}, tiers.Disk)
		}
		return true
	})
	for labels, sum := range sums {
		collectTier(ch, labels, sum)
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
