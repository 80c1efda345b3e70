package r2

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"time"
)

// inactivity is how long a connection may carry nothing, in either direction,
// while a request is under way.
const inactivity = 30 * time.Second

type dialFunc func(ctx context.Context, network, addr string) (net.Conn, error)

// newTransport speaks HTTP/1.1 only: several ranges of one object over one
// HTTP/2 connection share its window, over several connections they don't.
func newTransport(dial dialFunc) *http.Transport {
	return &http.Transport{
		Proxy: http.ProxyFromEnvironment,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := dial(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return &watchedConn{Conn: conn, timeout: inactivity}, nil
		},
		TLSHandshakeTimeout: 10 * time.Second,
		TLSClientConfig:     &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}},
		TLSNextProto:        map[string]func(string, *tls.Conn) http.RoundTripper{},
		ForceAttemptHTTP2:   false,
		DisableCompression:  true,
		// An idle connection has a read waiting too, so it goes first.
		IdleConnTimeout: inactivity / 2,
	}
}

// watchedConn fails where nothing is read or written for the length of timeout.
//
// A write moves the deadline of reads as well: net/http has a read waiting from
// before the request until the answer, however long the request's body takes.
type watchedConn struct {
	net.Conn
	timeout time.Duration
	over    atomic.Bool // a time-out has ended it
}

func (c *watchedConn) Read(p []byte) (int, error) {
	_ = c.SetReadDeadline(time.Now().Add(c.timeout)) // What is amiss, Read says.
	n, err := c.Conn.Read(p)
	return n, c.cause(err)
}

// cause is the time-out that has ended the connection, if one has: net/http closes
// it after the first error, and that of the other direction may be the one it tells.
func (c *watchedConn) cause(err error) error {
	switch {
	case err == nil:
	case isTimeout(err):
		c.over.Store(true)
	case c.over.Load():
		return os.ErrDeadlineExceeded
	}
	return err
}

// maxWrite keeps one write short enough to count as a sign of life: a deadline
// is not moved while a long write makes progress.
const maxWrite = 64 << 10

func (c *watchedConn) Write(p []byte) (int, error) {
	written := 0
	for {
		_ = c.SetDeadline(time.Now().Add(c.timeout)) // As above.
		n, err := c.Conn.Write(p[:min(len(p), maxWrite)])
		written += n
		if p = p[n:]; err != nil || len(p) == 0 {
			return written, c.cause(err)
		}
	}
}
