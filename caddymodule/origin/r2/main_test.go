package r2_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stevedores-org/nix-cache/caddymodule/origin"
	"github.com/stevedores-org/nix-cache/caddymodule/origin/r2"
)

const path = "nar/a.nar.xz"

// pipes is a network of one server, without sockets: time in it is synctest's.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.done) })
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipes"} }

func (p *pipes) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case p.conns <- server:
		return client, nil
	case <-p.done:
		return nil, errors.New("connection refused")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// bucket is an origin and the operations it has reported.
type bucket struct {
	*r2.Origin
	mu struct {
		sync.Mutex
		operations []r2.Operation
	}
}

func (b *bucket) operations() []r2.Operation {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.mu.operations)
}

// summary is "name class outcome" of each operation.
func (b *bucket) summary() []string {
	lines := []string{}
	for _, op := range b.operations() {
		lines = append(lines, op.Name+" "+op.Class+" "+op.Outcome)
	}
	return lines
}

// serve returns an origin before handler, in a bubble of its own.
func serve(t *testing.T, config r2.Config, handler http.HandlerFunc) *bucket {
	t.Helper()
	network := &pipes{conns: make(chan net.Conn), done: make(chan struct{})}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		handler(w, r)
		// Or the server lingers before it closes the connection.
		io.Copy(io.Discard, r.Body)
	})}
	go server.Serve(network)
	// Close would leave connections behind that linger after a cut request.
	t.Cleanup(func() { server.Shutdown(context.Background()) })

	b := &bucket{}
	config.AccountID, config.Endpoint = "", "http://r2.test"
	config.Observe = func(op r2.Operation) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.mu.operations = append(b.mu.operations, op)
	}
	var err error
	if b.Origin, err = r2.NewThrough(config, network.dial, nil); err != nil {
		t.Fatal(err)
	}
	return b
}

func fail(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	fmt.Fprintf(w, "<?xml version=\"1.0\"?><Error><Code>%s</Code><Message>A message.</Message></Error>", code)
}

func put(ctx context.Context, o origin.Origin, data []byte, opts origin.CreateOptions) error {
	staged, err := o.Create(ctx, path, opts)
	if err != nil {
		return err
	}
	defer staged.Abort()
	if _, err := staged.Write(data); err != nil {
		return err
	}
	return staged.Commit()
}

// operations of the contract, with a condition where there is one.
var operations = []struct {
	name string
	do   func(context.Context, origin.Origin) error
}{
	{"open", func(ctx context.Context, o origin.Origin) error {
		_, _, err := o.Open(ctx, path, origin.OpenOptions{Length: 10, IfMatch: "x"})
		return err
	}},
	{"stat", func(ctx context.Context, o origin.Origin) error { _, err := o.Stat(ctx, path); return err }},
	{"delete", func(ctx context.Context, o origin.Origin) error { return o.Delete(ctx, path) }},
	{"list", func(ctx context.Context, o origin.Origin) error {
		for _, err := range o.List(ctx, "") {
			return err
		}
		return nil
	}},
	{"commit", func(ctx context.Context, o origin.Origin) error {
		return put(ctx, o, []byte("x"), origin.CreateOptions{Size: -1, IfAbsent: true})
	}},
	{"commit if-match", func(ctx context.Context, o origin.Origin) error {
		return put(ctx, o, []byte("x"), origin.CreateOptions{Size: -1, IfMatch: "x"})
	}},
	{"create big", func(ctx context.Context, o origin.Origin) error {
		return put(ctx, o, make([]byte, r2.MinPartSize+1), origin.CreateOptions{Size: -1})
	}},
}

func wantOneLine(t *testing.T, err error) {
	t.Helper()
	if text := err.Error(); strings.Contains(text, "\n") || strings.Contains(text, secret) {
		t.Errorf("the error is not one line without secrets: %s", text)
	}
}
