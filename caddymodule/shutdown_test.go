package caddymodule

import (
	"context"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func init() { caddy.RegisterModule(waiter{}) }

// waiter is a handler that answers once its server begins to shut down.
type waiter struct{ serving context.Context }

// entered has a value for each request that waits.
var entered = make(chan struct{}, 1)

func (waiter) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.test_waiter", New: func() caddy.Module { return new(waiter) }}
}

func (w *waiter) Provision(ctx caddy.Context) error {
	w.serving = untilShutdown(ctx)
	return nil
}

func (w *waiter) ServeHTTP(rw http.ResponseWriter, _ *http.Request, _ caddyhttp.Handler) error {
	entered <- struct{}{}
	<-w.serving.Done()
	_, err := io.WriteString(rw, "stopping")
	return err
}

// TestUntilShutdown: it ends when the shutdown begins, not when all requests are
// done, for which the server has a minute here.
func TestUntilShutdown(t *testing.T) {
	newDataDir(t)
	socket := filepath.Join(t.TempDir(), "s")
	config := strings.NewReplacer("127.0.0.1:0", "unix/"+socket, `"1s"`, `"1m"`, `"nix_cache"`, `"test_waiter"`).Replace(string(server(`{}`)))
	if err := caddy.Load([]byte(config), true); err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}
	defer transport.CloseIdleConnections()
	answered := make(chan string)
	go func() {
		answer, err := (&http.Client{Transport: transport}).Get("http://localhost/a/")
		if err != nil {
			answered <- err.Error()
			return
		}
		defer answer.Body.Close()
		text, _ := io.ReadAll(answer.Body)
		answered <- string(text)
	}()
	<-entered
	begin := time.Now()
	if err := caddy.Stop(); err != nil {
		t.Error(err)
	}
	if text := <-answered; text != "stopping" || time.Since(begin) > 30*time.Second {
		t.Errorf("answered %q after %v", text, time.Since(begin))
	}
}
