package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	infoClients = 16
	narClients  = 4
)

// respondAs returns directives by which Caddy answers what the cache at url
// does, header by header.
func respondAs(url string) (string, error) {
	for range 2 { // the second time it is a hit
		resp, err := http.Get(url)
		if err != nil {
			return "", err
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK {
			return "", fmt.Errorf("get %s: %s, %v", url, resp.Status, err)
		}
		if resp.Header.Get("Cache-Status") != "nix-cache; hit; detail=memory" {
			continue
		}
		return respondDirectives(resp.Header, string(body)), nil
	}
	return "", errors.New("get the narinfo: it is never a hit")
}

func respondDirectives(header http.Header, body string) string {
	text := "header {\n"
	for name, values := range header {
		if !slices.Contains([]string{"Date", "Server", "Content-Length", "Via"}, name) {
			text += fmt.Sprintf("%s %s\n", name, strconv.Quote(values[0]))
		}
	}
	return text + "}\nrespond <<BODY\n" + strings.TrimSuffix(body, "\n") + "\n\nBODY 200"
}

// narinfo: how dear is a hot narinfo?
func (w *world) narinfo() error {
	all, err := measureAll([]subject{
		{"nix_cache", w.ours.process, w.ours.address["r2"], w.info.path, nil},
		{"nix_cache behind log, encode, header, metrics", w.dressed.process, w.dressed.address["r2"], w.info.path, nil},
		{"Caddy respond", w.others.process, w.others.address["respond"], w.info.path, nil},
		{"Caddy respond behind the same", w.dressed.process, w.dressed.address["respond"], w.info.path, nil},
		{"Caddy file_server", w.others.process, w.others.address["files"], w.info.path, nil},
		{"nginx, files", w.nginx.process, w.nginx.files, w.info.path, nil},
		{"nginx proxy_cache", w.nginx.process, w.nginx.proxy, w.info.path, nil},
		{"Varnish", w.varnish.process, w.varnish.address, w.info.path, nil},
		{"S3 server", w.s3.process, w.s3.address, "/" + bucket + w.info.path, nil},
	}, infoClients, w.options.rounds(), w.options.span())
	if err != nil {
		return err
	}
	t := table{
		title:  fmt.Sprintf("A hot narinfo of %d bytes, keep-alive, %d clients", w.info.size, infoClients),
		header: []string{"", "CPU per request", "× Caddy respond", "requests/s", "p50", "p99"},
	}
	base := all[2].cpuPerRequest()
	for _, s := range all {
		t.add(s.name, fmt.Sprintf("%.1f µs", s.cpuPerRequest()), ratio(s.cpuPerRequest()/base),
			fmt.Sprintf("%.0f", s.requestRate()), millis(s.latency(0.5)), millis(s.latency(0.99)))
	}
	w.report.tables = append(w.report.tables, t)
	w.report.atMost("hot narinfo, CPU per request", all[0].cpuPerRequest()/base, 1.0, "× Caddy `respond`")
	return nil
}

// nar: how dear is a hot NAR over HTTP/1.1?
func (w *world) nar() error {
	all, err := measureAll([]subject{
		{"nix_cache", w.ours.process, w.ours.address["r2"], w.big.path, nil},
		{"nix_cache, origin dir", w.ours.process, w.ours.address["dir"], w.big.path, nil},
		{"nix_cache behind log, encode, header, metrics", w.dressed.process, w.dressed.address["r2"], w.big.path, nil},
		{"Caddy file_server", w.others.process, w.others.address["files"], w.big.path, nil},
		{"nginx, files", w.nginx.process, w.nginx.files, w.big.path, nil},
		{"nginx proxy_cache", w.nginx.process, w.nginx.proxy, w.big.path, nil},
		{"Varnish", w.varnish.process, w.varnish.address, w.big.path, nil},
		{"S3 server", w.s3.process, w.s3.address, "/" + bucket + w.big.path, nil},
	}, narClients, w.options.rounds(), w.options.span())
	if err != nil {
		return err
	}
	const base = 4
	w.report.addNAR(fmt.Sprintf("A hot NAR of 60 MB over HTTP/1.1, %d clients", narClients), all, base)
	w.report.atMost("hot 60 MB NAR, CPU per GB", all[0].cpuPerGB()/all[base].cpuPerGB(), 1.6, "× nginx, files")
	return w.sendfile()
}

// tls: how dear is it over TLS and HTTP/2?
func (w *world) tls() error {
	all, err := measureAll([]subject{
		{"nix_cache", w.ours.process, w.ours.address["tls"], w.big.path, dialH2},
		{"Caddy file_server", w.others.process, w.others.address["tls"], w.big.path, dialH2},
		{"nginx, files", w.nginx.process, w.nginx.tls, w.big.path, dialH2},
	}, narClients, w.options.rounds(), w.options.span())
	if err != nil {
		return err
	}
	w.report.addNAR(fmt.Sprintf("The same over TLS and HTTP/2, %d clients", narClients), all, 1)
	w.report.atMost("hot 60 MB NAR over TLS and HTTP/2, CPU per GB", all[0].cpuPerGB()/all[1].cpuPerGB(), 0.75, "× Caddy `file_server`")
	return nil
}

// sendfile counts the system calls of one hot NAR with all of Caddy in front.
func (w *world) sendfile() error {
	counts := w.options.dir + "/strace"
	pid := strconv.Itoa(w.dressed.cmd.Process.Pid)
	trace := exec.Command("strace", "-f", "-c", "-U", "calls,name", "-e", "trace=sendfile,write,writev,pread64", "-o", counts, "-p", pid)
	attached, err := trace.StderrPipe()
	if err != nil {
		return err
	}
	if err := trace.Start(); err != nil {
		return fmt.Errorf("start strace: %w", err)
	}
	attached.Read(make([]byte, 1)) // it says so when it has attached
	time.Sleep(200 * time.Millisecond)
	s := subject{"nix_cache", w.dressed.process, w.dressed.address["r2"], w.big.path, nil}
	_, _, err = s.once(io.Discard)
	trace.Process.Signal(os.Interrupt)
	go io.Copy(io.Discard, attached)
	trace.Wait()
	if err != nil {
		return err
	}
	text, err := os.ReadFile(counts)
	if err != nil {
		return err
	}
	calls := parseStrace(string(text))
	w.report.note("Behind `log`, `encode`, `header` and `metrics`, a hot 60 MB NAR over HTTP/1.1 took %d `sendfile`, %d `write`, %d `pread64` calls.",
		calls["sendfile"], calls["write"]+calls["writev"], calls["pread64"])
	return nil
}

// parseStrace reads the summary of strace -c -U calls,name.
func parseStrace(text string) map[string]int {
	calls := map[string]int{}
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) != 2 {
			continue
		}
		if n, err := strconv.Atoi(fields[0]); err == nil {
			calls[fields[1]] = n
		}
	}
	return calls
}
