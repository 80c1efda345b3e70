package main

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// operations: which requests cost one to the bucket?
func (w *world) operations() error {
	info, err := w.maker.narinfo()
	if err != nil {
		return err
	}
	if err := w.s3.upload(w.ctx, info); err != nil {
		return err
	}
	nar, err := w.newNAR(firstSize)
	if err != nil {
		return err
	}
	absent := "/" + strings.Repeat("a", 32) + ".narinfo"
	kinds := []struct {
		what, method, path string
		status             int
		fresh              bool // with the validator of the answer before
		want               int64
	}{
		{"narinfo, miss", "GET", info.path, 200, false, 1},
		{"narinfo, hit", "GET", info.path, 200, false, 0},
		{"narinfo, HEAD of a hit", "HEAD", info.path, 200, false, 0},
		{"narinfo, 304", "GET", info.path, 304, true, 0},
		{"narinfo, absent", "GET", absent, 404, false, 1},
		{"narinfo, absent, asked again", "GET", absent, 404, false, 0},
		{"NAR, HEAD of a cold one", "HEAD", nar.path, 200, false, 1},
		{"NAR of 4 MB, miss", "GET", nar.path, 200, false, 2},
		{"NAR, while it is being stored", "GET", nar.path, 200, false, 0},
		{"NAR, hit", "GET", nar.path, 200, false, 0},
		{"NAR, 304", "GET", nar.path, 304, true, 0},
	}
	unexpected := 0.0
	t := table{title: "Requests to the bucket", header: []string{"request", "operations", "expected"}}
	w.origin.seen()
	var tag string
	for _, k := range kinds {
		if !k.fresh {
			tag = ""
		}
		if k.what == "NAR, hit" {
			if err := w.awaitStored(nar); err != nil {
				return err
			}
		}
		var err error
		if tag, err = w.ask(k.method, k.path, tag, k.status); err != nil {
			return err
		}
		n := w.origin.seen().requests
		t.add(k.what, fmt.Sprint(n), fmt.Sprint(k.want))
		if n != k.want {
			unexpected++
		}
	}
	w.report.tables = append(w.report.tables, t)
	w.report.atMost("kinds of request that cost the bucket other than expected", unexpected, 0, "")
	return nil
}

// awaitStored waits until a NAR that was served is on disk, which is soon.
func (w *world) awaitStored(f file) error {
	for range 100 {
		resp, err := http.Head("http://" + w.ours.address["r2"] + f.path)
		if err != nil {
			return err
		}
		resp.Body.Close()
		if resp.Header.Get("Cache-Status") == "nix-cache; hit; detail=disk" {
			w.origin.seen()
			return nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	return fmt.Errorf("%s is not stored", f.path)
}

// ask sends one request to the cache and returns the validator of its answer.
func (w *world) ask(method, path, tag string, status int) (string, error) {
	req, err := http.NewRequestWithContext(w.ctx, method, "http://"+w.ours.address["r2"]+path, nil)
	if err != nil {
		return "", err
	}
	if tag != "" {
		req.Header.Set("If-None-Match", tag)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return "", err
	}
	if resp.StatusCode != status {
		return "", fmt.Errorf("%s %s: got %s, want %d", method, path, resp.Status, status)
	}
	return resp.Header.Get("ETag"), nil
}
