package main

import (
	"fmt"
	"io"
	"math"
	"slices"
	"sync"
	"time"
)

// dialer opens one client's connection to a path at an address.
type dialer func(address, path string) (client, error)

// subject is one server with one file to ask it for.
type subject struct {
	name    string
	process *process
	address string
	path    string
	dial    dialer // default: dialPlain
}

func (s subject) open() (client, error) {
	if s.dial == nil {
		return dialPlain(s.address, s.path)
	}
	return s.dial(s.address, s.path)
}

// sample is what one server did in one round.
type sample struct {
	requests  int
	bytes     int64
	cpu, wall time.Duration
	latencies []time.Duration
}

// measure has clients ask for the file for a while, each one request at a time.
func (s subject) measure(clients int, span time.Duration) (sample, error) {
	results := make([]sample, clients)
	errs := make([]error, clients)
	before, err := s.process.cpu()
	if err != nil {
		return sample{}, err
	}
	start := time.Now()
	var wg sync.WaitGroup
	for i := range clients {
		wg.Go(func() { results[i], errs[i] = s.ask(start.Add(span)) })
	}
	wg.Wait()
	total := sample{wall: time.Since(start)}
	after, err := s.process.cpu()
	if err != nil {
		return sample{}, err
	}
	total.cpu = after - before
	for i, r := range results {
		if errs[i] != nil {
			return sample{}, fmt.Errorf("%s: %w", s.name, errs[i])
		}
		total.requests += r.requests
		total.bytes += r.bytes
		total.latencies = append(total.latencies, r.latencies...)
	}
	return total, nil
}

// ask repeats the request until the time is over, on one connection.
func (s subject) ask(until time.Time) (done sample, err error) {
	c, err := s.open()
	if err != nil {
		return done, err
	}
	defer c.close()
	for {
		start := time.Now()
		_, n, err := c.get(io.Discard)
		if err != nil {
			return done, err
		}
		now := time.Now()
		done.requests++
		done.bytes += n
		done.latencies = append(done.latencies, now.Sub(start))
		if now.After(until) {
			return done, nil
		}
	}
}

// once asks for the file a single time.
func (s subject) once(sink io.Writer) (first time.Duration, n int64, err error) {
	c, err := s.open()
	if err != nil {
		return 0, 0, err
	}
	defer c.close()
	first, n, err = c.get(sink)
	if err != nil {
		err = fmt.Errorf("%s: %w", s.name, err)
	}
	return first, n, err
}

// series are the rounds of one server.
type series struct {
	name    string
	samples []sample
}

// measureAll measures the servers in turn, round by round, so that whatever
// else the machine does meets all of them.
func measureAll(subjects []subject, clients, rounds int, span time.Duration) ([]series, error) {
	all := make([]series, len(subjects))
	for i, s := range subjects {
		all[i].name = s.name
		if _, _, err := s.once(io.Discard); err != nil { // so that the file is hot
			return nil, err
		}
	}
	for range rounds {
		for i, s := range subjects {
			done, err := s.measure(clients, span)
			if err != nil {
				return nil, err
			}
			all[i].samples = append(all[i].samples, done)
		}
	}
	return all, nil
}

func (s series) median(value func(sample) float64) float64 {
	values := make([]float64, len(s.samples))
	for i, sample := range s.samples {
		values[i] = value(sample)
	}
	return median(values)
}

// cpuPerRequest is in microseconds.
func (s series) cpuPerRequest() float64 {
	return s.median(func(s sample) float64 { return float64(s.cpu.Microseconds()) / float64(s.requests) })
}

// cpuPerGB is in seconds; a GB is 10^9 bytes.
func (s series) cpuPerGB() float64 {
	return s.median(func(s sample) float64 { return s.cpu.Seconds() / (float64(s.bytes) / 1e9) })
}

func (s series) requestRate() float64 {
	return s.median(func(s sample) float64 { return float64(s.requests) / s.wall.Seconds() })
}

// byteRate is in MB/s.
func (s series) byteRate() float64 {
	return s.median(func(s sample) float64 { return float64(s.bytes) / 1e6 / s.wall.Seconds() })
}

// latency is the quantile q of all rounds.
func (s series) latency(q float64) time.Duration {
	var all []time.Duration
	for _, sample := range s.samples {
		all = append(all, sample.latencies...)
	}
	return quantile(all, q)
}

func median(values []float64) float64 { return quantile(values, 0.5) }

// quantile returns the smallest value that at least the share q of all values
// do not exceed.
func quantile[T int64 | float64 | time.Duration](values []T, q float64) T {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	return sorted[max(int(math.Ceil(q*float64(len(sorted))))-1, 0)]
}
