package caddymodule

import (
	"errors"
	"maps"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/stevedores-org/nix-cache/caddymodule/cache"
	"github.com/stevedores-org/nix-cache/caddymodule/nix"
	"github.com/stevedores-org/nix-cache/caddymodule/origin/r2"
)

// The collectors are of the process, not of a config: Caddy makes a registry
// with each config, and counters have to survive that.
var metrics = newMetrics()

const metricsPrefix = "caddy_nix_cache_"

type processMetrics struct {
	requests, lookups, served, authFailures *prometheus.CounterVec
	requestSeconds                          *prometheus.HistogramVec

	uploads, uploadBytes *prometheus.CounterVec
	uploadSeconds        *prometheus.HistogramVec

	fillBytes   *prometheus.CounterVec
	fillSeconds *prometheus.HistogramVec

	originRequests, originBytes *prometheus.CounterVec
	originSeconds               *prometheus.HistogramVec
	originUp                    *prometheus.GaugeVec
	narsMissing                 *prometheus.CounterVec

	mu struct {
		sync.Mutex
		fills map[string]*cache.Counters // by cache name
	}
}

func newMetrics() *processMetrics {
	m := &processMetrics{
		requests:       counter("requests_total", "Requests answered.", "kind", "method", "status"),
		requestSeconds: histogram("request_duration_seconds", "Duration of reads of files, the body included, by how they were answered.", hotBuckets, "kind", "result"),
		lookups:        counter("lookups_total", "Look-ups of files by how they were answered.", "kind", "method", "result"),
		served:         counter("served_bytes_total", "Bytes of files sent to clients by where they came from.", "kind", "source"),
		narsMissing:    counter("nars_missing_total", "NARs that were asked for and are not there, though their narinfo is."),
		authFailures:   counter("auth_failures_total", "Requests refused for their credential.", "reason"),
		uploads:        counter("uploads_total", "Uploads by how they ended.", "kind", "outcome", "reason"),
		uploadBytes:    counter("upload_bytes_total", "Bytes received of uploads by how they ended.", "kind", "outcome"),
		uploadSeconds:  histogram("upload_duration_seconds", "Duration of uploads by how they ended.", slowBuckets, "kind", "outcome"),
		fillBytes:      counter("fill_bytes_total", "Bytes that fills brought from the origin by how they ended.", "outcome"),
		fillSeconds:    histogram("fill_duration_seconds", "Duration of fills of large files by how they ended.", slowBuckets, "outcome"),
		originRequests: counter("origin_requests_total", "Requests to the origin. Class is what the origin bills.", "operation", "class", "outcome"),
		originBytes:    counter("origin_bytes_total", "Bytes of files received from and sent to the origin.", "operation", "class", "outcome"),
		originSeconds: histogram("origin_request_seconds", "Duration of requests to the origin, the body included.",
			prometheus.ExponentialBuckets(0.005, 2.5, 10), "operation", "class", "outcome"),
		originUp: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: metricsPrefix + "origin_up", Help: "1 if the origin answered when it was asked last, 0 if it did not or refused to.",
		}, []string{"cache"}),
	}
	m.mu.fills = make(map[string]*cache.Counters)
	return m
}

var (
	hotBuckets  = prometheus.ExponentialBuckets(0.0005, 4, 9) // to 33 s
	slowBuckets = prometheus.ExponentialBuckets(0.01, 4, 9)   // to 11 min
)

func counter(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Name: metricsPrefix + name, Help: help}, withCache(labels))
}

func histogram(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
	return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: metricsPrefix + name, Help: help, Buckets: buckets}, withCache(labels))
}

// withCache adds the label that all our metrics have.
func withCache(labels []string) []string { return append([]string{"cache"}, labels...) }

func (m *processMetrics) collectors() []prometheus.Collector {
	return []prometheus.Collector{
		m.requests, m.requestSeconds, m.lookups, m.served, m.authFailures,
		m.uploads, m.uploadBytes, m.uploadSeconds, m.fillBytes, m.fillSeconds,
		m.originRequests, m.originBytes, m.originSeconds, m.originUp, m.narsMissing,
		fillCollector{m}, tierCollector{}, originCollector{}, buildInfo,
	}
}

// handlerMetrics are the metrics of one cache name.
type handlerMetrics struct {
	name  string
	fills *cache.Counters
	files map[fileLookup]fileCounters // resolved beforehand

	requests atomic.Pointer[map[requestLabels]prometheus.Counter] // resolved so far; replaced, never changed
}

type requestLabels struct {
	kind, method string
	status       int
}

// fileLookup is a look-up that found a file.
type fileLookup struct {
	kind   nix.Kind
	result cache.Result
	head   bool
}

type fileCounters struct {
	lookups, bytes prometheus.Counter
	seconds        func() prometheus.Observer // made at its first use: most are never needed
}

func newHandlerMetrics(name string, fills *cache.Counters) *handlerMetrics {
	m := &handlerMetrics{name: name, fills: fills, files: map[fileLookup]fileCounters{}}
	m.requests.Store(&map[requestLabels]prometheus.Counter{})
	for kind := range nix.Kinds() {
		for result, source := range sources {
			seconds := sync.OnceValue(func() prometheus.Observer { return m.seconds(kind.String(), result.String()) })
			for method, head := range map[string]bool{http.MethodGet: false, http.MethodHead: true} {
				m.files[fileLookup{kind, result, head}] = fileCounters{
					lookups: metrics.lookups.WithLabelValues(name, kind.String(), method, result.String()),
					bytes:   metrics.served.WithLabelValues(name, kind.String(), source),
					seconds: seconds,
				}
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
		fills = &cache.Counters{Observe: observeFills(name)}
		metrics.mu.fills[name] = fills
	}
	return newHandlerMetrics(name, fills), nil
}

func observeFills(name string) func(cache.Fill) {
	return func(fill cache.Fill) {
		metrics.fillBytes.WithLabelValues(name, fill.Outcome).Add(float64(fill.Bytes))
		metrics.fillSeconds.WithLabelValues(name, fill.Outcome).Observe(fill.Duration.Seconds())
	}
}

func (m *handlerMetrics) request(labels requestLabels) {
	known := m.requests.Load()
	counter := (*known)[labels]
	if counter == nil {
		counter = metrics.requests.WithLabelValues(m.name, labels.kind, labels.method, strconv.Itoa(labels.status))
		more := maps.Clone(*known)
		more[labels] = counter
		m.requests.CompareAndSwap(known, &more) // else another comes next time
	}
	counter.Inc()
}

// seconds returns the histogram of the duration of answers.
func (m *handlerMetrics) seconds(kind, result string) prometheus.Observer {
	return metrics.requestSeconds.WithLabelValues(m.name, kind, result)
}

// resultAbsent is the result of a look-up of a file that the origin says it
// lacks.
const resultAbsent = "absent"

// absent counts a look-up that found nothing, and returns the label of its result.
func (m *handlerMetrics) absent(kind, method string, result cache.Result) string {
	label := resultAbsent
	if result == cache.Negative || result == cache.Stale { // the origin was not asked
		label = result.String()
	}
	m.lookup(kind, method, label)
	return label
}

// lookup counts a look-up that found nothing.
func (m *handlerMetrics) lookup(kind, method, result string) {
	metrics.lookups.WithLabelValues(m.name, kind, method, result).Inc()
}

// found counts a look-up that found a file, and returns the counters of what is
// sent of it.
func (m *handlerMetrics) found(kind nix.Kind, method string, result cache.Result) fileCounters {
	counters := m.files[fileLookup{kind, result, method == http.MethodHead}]
	counters.lookups.Inc()
	return counters
}

// receivedUpload is an upload that has ended.
type receivedUpload struct {
	kind, outcome, reason string
	bytes                 int64 // that were received
	duration              time.Duration
}

func (m *handlerMetrics) upload(u receivedUpload) {
	metrics.uploads.WithLabelValues(m.name, u.kind, u.outcome, u.reason).Inc()
	metrics.uploadBytes.WithLabelValues(m.name, u.kind, u.outcome).Add(float64(u.bytes))
	metrics.uploadSeconds.WithLabelValues(m.name, u.kind, u.outcome).Observe(u.duration.Seconds())
}

// narMissing counts a NAR that is not there though its narinfo is.
func (m *handlerMetrics) narMissing() { metrics.narsMissing.WithLabelValues(m.name).Inc() }

func (m *handlerMetrics) authFailure(reason string) {
	metrics.authFailures.WithLabelValues(m.name, reason).Inc()
}

// originUp notes whether the origin answered when it was asked last.
func (m *handlerMetrics) originUp(up bool) {
	metrics.originUp.WithLabelValues(m.name).Set(gaugeOf(up))
}

func gaugeOf(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}

func (m *handlerMetrics) observeOrigin(op r2.Operation) {
	labels := []string{m.name, op.Name, op.Class, op.Outcome}
	metrics.originRequests.WithLabelValues(labels...).Inc()
	metrics.originBytes.WithLabelValues(labels...).Add(float64(op.Bytes))
	metrics.originSeconds.WithLabelValues(labels...).Observe(op.Duration.Seconds())
	switch op.Outcome { // the others say nothing of it; absent may be its bucket
	case "ok":
		m.originUp(true)
	case "refused", "failed", "timeout":
		m.originUp(false)
	}
}
