package main

import (
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync"
	"sync/atomic"
	"time"
)

// What a distant bucket is like, for the cold rows.
const (
	distance  = 40 * time.Millisecond // from a request to the first byte of its answer
	bandwidth = 10_000_000            // bytes a second, of each connection
)

// distantOrigin is a proxy before the S3 server that counts, and while it is
// far makes each answer wait and each connection slow.
type distantOrigin struct {
	address  string
	server   *http.Server
	far      atomic.Bool
	requests atomic.Int64
	bytes    atomic.Int64 // of bodies
	ranges   sync.Map     // path and Range of each request
}

func startDistantOrigin(upstream string) (*distantOrigin, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	o := &distantOrigin{address: l.Addr().String()}
	o.server = &http.Server{Handler: o.handler(&url.URL{Scheme: "http", Host: upstream})}
	go o.server.Serve(&pacedListener{l, &o.far})
	return o, nil
}

func (o *distantOrigin) stop() { o.server.Close() }

// The Host stays as it is, since clients sign it.
func (o *distantOrigin) handler(upstream *url.URL) http.Handler {
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(upstream)
			r.Out.Host = r.In.Host
		},
		Transport:      &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 256},
		ModifyResponse: o.count,
		BufferPool:     &buffers{},
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		o.requests.Add(1)
		o.ranges.Store(r.URL.Path+" "+r.Header.Get("Range"), nil)
		if o.far.Load() {
			time.Sleep(distance)
		}
		proxy.ServeHTTP(w, r)
	})
}

func (o *distantOrigin) count(resp *http.Response) error {
	resp.Body = &countedBody{resp.Body, &o.bytes}
	return nil
}

// traffic is what went through in some time.
type traffic struct {
	requests int64
	parts    int64 // different ranges of different files
	bytes    int64 // of bodies
}

// seen returns what has gone through since the last call.
func (o *distantOrigin) seen() traffic {
	t := traffic{requests: o.requests.Swap(0), bytes: o.bytes.Swap(0)}
	for range o.ranges.Range {
		t.parts++
	}
	o.ranges.Clear()
	return t
}

type countedBody struct {
	io.ReadCloser
	n *atomic.Int64
}

func (b *countedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.n.Add(int64(n))
	return n, err
}

type pacedListener struct {
	net.Listener
	on *atomic.Bool
}

func (l *pacedListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &pacedConn{Conn: conn, on: l.on}, nil
}

// pacedConn writes no faster than bandwidth while it is on.
type pacedConn struct {
	net.Conn
	on   *atomic.Bool
	next time.Time // when the line is free again
}

const (
	burst    = 32 << 10              // how much goes at once: at bandwidth, some 3 ms worth
	lateness = 20 * time.Millisecond // that is caught up with, as timers are late
)

func (c *pacedConn) Write(p []byte) (sent int, err error) {
	if !c.on.Load() {
		return c.Conn.Write(p)
	}
	for sent < len(p) {
		if least := time.Now().Add(-lateness); c.next.Before(least) {
			c.next = least
		}
		time.Sleep(time.Until(c.next))
		n, err := c.Conn.Write(p[sent:min(sent+burst, len(p))])
		sent += n
		if err != nil {
			return sent, err
		}
		c.next = c.next.Add(time.Duration(n) * time.Second / bandwidth)
	}
	return sent, nil
}

// buffers are the proxy's: larger than its own, so that it costs little.
type buffers struct{ pool sync.Pool }

func (b *buffers) Get() []byte {
	if p, ok := b.pool.Get().(*[]byte); ok {
		return *p
	}
	return make([]byte, 256<<10)
}

func (b *buffers) Put(p []byte) { b.pool.Put(&p) }
