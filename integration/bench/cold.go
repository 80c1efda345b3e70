package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

const (
	coldSize   = 200_000_000
	firstSize  = 4_000_000 // of the NARs that only their first byte is waited for
	firstTries = 15
	herdSize   = 200 // clients
)

// cold: how long does a NAR take that only a distant bucket has?
func (w *world) cold() error {
	w.origin.far.Store(true)
	defer w.origin.far.Store(false)
	caches := []subject{
		{"nix_cache", w.ours.process, w.ours.address["r2"], "", nil},
		{"straight from the bucket", w.s3.process, w.origin.address, "", w.dialSigned},
		{"nginx proxy_cache", w.nginx.process, w.nginx.proxy, "", nil},
		{"Varnish", w.varnish.process, w.varnish.address, "", nil},
	}
	firsts, err := w.firstBytes(caches)
	if err != nil {
		return err
	}
	rates, err := w.coldRates(caches)
	if err != nil {
		return err
	}
	t := table{
		title: fmt.Sprintf("A cold NAR of 200 MB, one client; the bucket %d ms away, %d MB/s for each connection",
			distance.Milliseconds(), bandwidth/1_000_000),
		header: []string{"", "MB/s", "× one connection", "first byte, median"},
	}
	for i, s := range caches {
		t.add(s.name, fmt.Sprintf("%.1f", rates[i]), ratio(rates[i]/rates[1]), fmt.Sprintf("%.1f ms", firsts[i]))
	}
	w.report.tables = append(w.report.tables, t)
	w.report.atLeast("cold 200 MB NAR", rates[0]/rates[1], 6, "× one connection")
	w.report.atMost("its first byte, later than straight from the bucket by", firsts[0]-firsts[1], 5, "ms")
	return nil
}

// firstBytes returns, for each, the median time to the first byte of a file
// that it has not seen, in milliseconds.
func (w *world) firstBytes(caches []subject) ([]float64, error) {
	times := make([][]float64, len(caches))
	for range firstTries {
		f, err := w.newNAR(firstSize)
		if err != nil {
			return nil, err
		}
		for i, s := range caches {
			s.path += f.path
			after, err := s.firstByte()
			if err != nil {
				return nil, err
			}
			times[i] = append(times[i], float64(after.Microseconds())/1000)
		}
	}
	medians := make([]float64, len(caches))
	for i := range caches {
		medians[i] = median(times[i])
	}
	return medians, nil
}

// firstByte downloads the file, and returns how long the first byte of it took.
func (s subject) firstByte() (time.Duration, error) {
	c, err := s.open()
	if err != nil {
		return 0, err
	}
	defer c.close()
	sink := &firstByte{start: time.Now()}
	if _, _, err := c.get(sink); err != nil {
		return 0, fmt.Errorf("%s: %w", s.name, err)
	}
	return sink.after, nil
}

// dialSigned opens a connection to the bucket itself, as one who has the
// credentials, which nix_cache needs as well.
func (w *world) dialSigned(address, path string) (client, error) {
	signed, err := w.s3.presign(w.ctx, address, path)
	if err != nil {
		return nil, err
	}
	return dialPlain(address, signed)
}

// firstByte notes when the first byte of a body came.
type firstByte struct {
	start time.Time
	after time.Duration
}

func (f *firstByte) Write(p []byte) (int, error) {
	if f.after == 0 {
		f.after = time.Since(f.start)
	}
	return len(p), nil
}

// coldRates returns, for each, the rate at which it serves a file that it has
// not seen, in MB/s.
func (w *world) coldRates(caches []subject) ([]float64, error) {
	f, err := w.newNAR(coldSize)
	if err != nil {
		return nil, err
	}
	rates := make([]float64, len(caches))
	fetch := func(i int) error {
		s := caches[i]
		s.path += f.path
		start := time.Now()
		_, _, err := s.once(io.Discard)
		rates[i] = coldSize / 1e6 / time.Since(start).Seconds()
		return err
	}
	if err := fetch(0); err != nil { // ours, which alone can take more than one connection gives
		return nil, err
	}
	return rates, together(len(caches)-1, func(i int) error { return fetch(i + 1) })
}

// herd: what do many clients of one cold NAR cost the bucket?
func (w *world) herd() error {
	f, err := w.newNAR(coldSize)
	if err != nil {
		return err
	}
	want, err := os.ReadFile(f.disk)
	if err != nil {
		return err
	}
	w.origin.far.Store(true)
	defer w.origin.far.Store(false)
	w.origin.seen()
	start := time.Now()
	s := subject{"nix_cache", w.ours.process, w.ours.address["r2"], f.path, nil}
	if err := together(herdSize, func(int) error {
		same := &comparer{want: want}
		if _, _, err := s.once(same); err != nil {
			return err
		}
		return same.whole()
	}); err != nil {
		return err
	}
	took := time.Since(start)
	asked := w.origin.seen()
	w.report.atMost(fmt.Sprintf("%d clients of one cold 200 MB NAR, bytes from the bucket", herdSize), float64(asked.bytes)/coldSize, 1.01, "× its size")
	w.report.atMost("requests to the bucket for them", float64(asked.requests), float64(asked.parts), "(its parts)")
	w.report.note("All %d clients of the cold NAR got every byte of it, in %.1f s.", herdSize, took.Seconds())
	return nil
}

// together runs the same for each of n at a time.
func together(n int, run func(i int) error) error {
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { errs[i] = run(i) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// comparer is a sink that takes only what it wants.
type comparer struct{ want []byte }

func (c *comparer) Write(p []byte) (int, error) {
	if len(p) > len(c.want) || !bytes.Equal(p, c.want[:len(p)]) {
		return 0, errors.New("the body has other bytes than the file")
	}
	c.want = c.want[len(p):]
	return len(p), nil
}

func (c *comparer) whole() error {
	if len(c.want) > 0 {
		return fmt.Errorf("the body lacks the last %d bytes", len(c.want))
	}
	return nil
}
