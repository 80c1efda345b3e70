package integration

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// globalOptions keep a Caddy to itself: its ports and its certificates; its
// admin socket comes by CADDY_ADMIN. Sites are given as http://localhost and https://localhost.
const globalOptions = `{
	default_bind 127.0.0.1
	http_port {$TEST_HTTP_PORT}
	https_port {$TEST_HTTPS_PORT}
	auto_https disable_redirects
	local_certs
	skip_install_trust
	grace_period 10s
	servers {
		protocols h1 h2
	}
}
`

// quickEnd keeps programs with the race detector from sleeping for a second before
// they end: https://go.dev/doc/articles/race_detector#Options
const quickEnd = "GORACE=atexit_sleep_ms=0"

// caddySetup describes a Caddy that is to be started.
type caddySetup struct {
	Command   []string // the program; default: Caddy built with the race detector
	Caddyfile string
	Env       []string // beside the few that every Caddy gets
}

// caddy is a Caddy that runs, with directories and ports of its own.
type caddy struct {
	HTTP  string // URL, without a slash at the end
	HTTPS string
	setup caddySetup
	dir   string
	log   *logLines
	cmd   *exec.Cmd
	ended chan struct{}
}

// startCaddy starts a Caddy with these sites; it serves when startCaddy returns
// and is stopped at the end of the test.
func startCaddy(tb testing.TB, caddyfile string) *caddy {
	tb.Helper()
	return caddySetup{Caddyfile: globalOptions + caddyfile}.start(tb)
}

func (s caddySetup) start(tb testing.TB) *caddy {
	tb.Helper()
	if s.Command == nil {
		s.Command = []string{requireEnv(tb, "CADDY_RACE")}
	}
	c := &caddy{setup: s, dir: tempDir(tb), log: newLogLines()}
	httpPort, httpsPort := freePort(tb), freePort(tb)
	c.HTTP = "http://localhost:" + httpPort
	c.HTTPS = "https://localhost:" + httpsPort
	c.setup.Env = append([]string{
		"PATH=" + os.Getenv("PATH"),
		"HOME=" + c.dir,
		"XDG_DATA_HOME=" + c.dir + "/data",
		"XDG_CONFIG_HOME=" + c.dir + "/config",
		"CADDY_ADMIN=unix/" + c.dir + "/admin.sock",
		"TEST_HTTP_PORT=" + httpPort,
		"TEST_HTTPS_PORT=" + httpsPort,
		quickEnd,
	}, s.Env...)
	writeFile(tb, c.dir+"/Caddyfile", s.Caddyfile)
	tb.Cleanup(func() { c.finish(tb) })
	c.run(tb)
	return c
}

// run starts the process and waits until it serves.
func (c *caddy) run(tb testing.TB) {
	tb.Helper()
	lines, _ := c.log.snapshot()
	args := append(slices.Clone(c.setup.Command), "run", "--config", c.dir+"/Caddyfile")
	c.cmd = exec.Command(args[0], args[1:]...)
	c.cmd.Dir = checkout(tb)
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // with what it starts
	c.cmd.Env = c.setup.Env
	c.cmd.Stdout, c.cmd.Stderr = c.log, c.log
	if err := c.cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	c.ended = make(chan struct{})
	go func() {
		c.cmd.Wait()
		close(c.ended)
	}()
	_, ok := c.log.wait(len(lines), c.ended, func(line string) bool {
		return strings.Contains(line, "serving initial configuration")
	})
	if !ok {
		tb.Fatal("Caddy does not serve")
	}
}

// stop ends Caddy as an operator would and waits for its end.
func (c *caddy) stop(tb testing.TB) { tb.Helper(); c.signal(tb, syscall.SIGTERM) }

// kill ends Caddy as a power failure would.
func (c *caddy) kill(tb testing.TB) { tb.Helper(); c.signal(tb, syscall.SIGKILL) }

func (c *caddy) restart(tb testing.TB) { tb.Helper(); c.stop(tb); c.run(tb) }

func (c *caddy) signal(tb testing.TB, sig syscall.Signal) {
	tb.Helper()
	syscall.Kill(-c.cmd.Process.Pid, sig) // an error says that it has ended
	select {
	case <-c.ended:
	case <-time.After(patience):
		syscall.Kill(-c.cmd.Process.Pid, syscall.SIGKILL)
		<-c.ended
		tb.Errorf("Caddy did not end at %v", sig)
	}
}

func (c *caddy) finish(tb testing.TB) {
	if c.ended != nil {
		c.stop(tb)
	}
	c.log.check(tb)
	if tb.Failed() {
		tb.Logf("Caddyfile:\n%s\nCaddy's log:\n%s", c.setup.Caddyfile, c.log)
	}
}

// rootCertificate returns the path of the certificate that signs what Caddy
// serves over HTTPS. It is there once a site uses HTTPS.
func (c *caddy) rootCertificate() string {
	return filepath.Join(c.dir, "data/caddy/pki/authorities/local/root.crt")
}

// client returns an HTTP client that trusts Caddy's certificate, follows no
// redirects and speaks HTTP/2 where Caddy does.
func (c *caddy) client(tb testing.TB) *http.Client {
	tb.Helper()
	transport := &http.Transport{DisableCompression: true, ForceAttemptHTTP2: true}
	if pem, err := os.ReadFile(c.rootCertificate()); err == nil {
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(pem)
		transport.TLSClientConfig = &tls.Config{RootCAs: roots}
	}
	tb.Cleanup(transport.CloseIdleConnections)
	return &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// accessEntry is a line of Caddy's access log, in so far as tests read it.
type accessEntry struct {
	Request struct {
		Method, URI, Proto string
		Headers            http.Header
	}
	Status int
	UserID string `json:"user_id"`
}

// waitAccess returns the first access log entry that matches. The site needs
// the directive log.
func (c *caddy) waitAccess(tb testing.TB, what string, match func(accessEntry) bool) accessEntry {
	tb.Helper()
	var found accessEntry
	_, ok := c.log.wait(0, c.ended, func(line string) bool {
		if !strings.Contains(line, `"http.log.access`) {
			return false
		}
		var entry accessEntry
		if err := json.Unmarshal([]byte(line), &entry); err != nil || !match(entry) {
			return false
		}
		found = entry
		return true
	})
	if !ok {
		tb.Fatalf("the access log has no %s", what)
	}
	return found
}

// residentPeak returns the most bytes of memory that Caddy held since
// resetResidentPeak, and residentNow what it holds.
func (c *caddy) residentPeak(tb testing.TB) int64 { tb.Helper(); return c.status(tb, "VmHWM:") }
func (c *caddy) residentNow(tb testing.TB) int64  { tb.Helper(); return c.status(tb, "VmRSS:") }

// resetResidentPeak: see clear_refs in proc(5).
func (c *caddy) resetResidentPeak(tb testing.TB) {
	tb.Helper()
	writeFile(tb, fmt.Sprintf("/proc/%d/clear_refs", c.cmd.Process.Pid), "5")
}

func (c *caddy) status(tb testing.TB, field string) int64 {
	tb.Helper()
	text := readFile(tb, fmt.Sprintf("/proc/%d/status", c.cmd.Process.Pid))
	_, rest, ok := strings.Cut(text, field)
	words := strings.Fields(rest)
	if !ok || len(words) == 0 {
		tb.Fatalf("/proc/…/status has no %s", field)
	}
	kib, err := strconv.ParseInt(words[0], 10, 64)
	if err != nil {
		tb.Fatal(err)
	}
	return kib << 10
}
