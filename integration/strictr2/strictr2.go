// Package strictr2 makes an S3 server as strict as Cloudflare R2 is documented
// to be: a reverse proxy that refuses what R2 doesn't take, with R2's own error
// codes, before an S3 server that takes it all. So a client that would fail at
// R2 fails in a test.
//
// The rules are those of
// https://developers.cloudflare.com/r2/api/s3/api/,
// https://developers.cloudflare.com/r2/api/s3/extensions/,
// https://developers.cloudflare.com/r2/objects/multipart-objects/,
// https://developers.cloudflare.com/r2/platform/limits/ and
// https://developers.cloudflare.com/r2/api/error-codes/.
//
// It looks at no signature and changes none: host, path, query and headers
// reach the server as they come.
package strictr2

import (
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync"
	"time"
)

// Proxy is an [http.Handler]. It counts requests, and can be told to fail.
type Proxy struct {
	upstream *httputil.ReverseProxy
	now      func() time.Time

	mu struct {
		sync.Mutex
		requests map[string]int
		refused  []string
		faults   []*fault
		written  map[string]time.Time      // by key
		parts    map[string]map[int32]part // by upload id and number
	}
}

// New returns a proxy before the S3 server at upstream, such as
// "http://127.0.0.1:7070". The limit of one write per second to a key goes by
// now, such as time.Now.
func New(upstream string, now func() time.Time) (*Proxy, error) {
	target, err := url.Parse(upstream)
	if err != nil {
		return nil, err
	}
	p := &Proxy{now: now}
	p.mu.requests = make(map[string]int)
	p.mu.written = make(map[string]time.Time)
	p.mu.parts = make(map[string]map[int32]part)
	p.upstream = &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Host = r.In.Host // It is signed.
		},
		Transport:    &http.Transport{MaxIdleConnsPerHost: 64, DisableCompression: true},
		ErrorHandler: badGateway,
	}
	return p, nil
}

// badGateway breaks the connection of a client that is gone anyway, and else
// says what is wrong with the server.
func badGateway(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() != nil {
		panic(http.ErrAbortHandler)
	}
	problem := problem{http.StatusBadGateway, "BadGateway", err.Error()}
	problem.write(w, r)
}

// Requests returns how many requests of an operation have come, refused ones
// and repetitions included: get, head, put, list, delete, create-multipart,
// upload-part, complete, abort, list-multipart or other.
func (p *Proxy) Requests(operation string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mu.requests[operation]
}

// Refused returns, a line each, the requests that broke a rule of R2's, the
// limit of one write per second aside.
func (p *Proxy) Refused() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.mu.refused...)
}

func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	op := OperationOf(r)
	f := p.count(op)
	if f != nil && !f.lost {
		f.problem.write(w, r)
		return
	}
	for _, rule := range rules {
		if refused := rule(p, op, r); refused != nil {
			p.note(op, r, refused)
			refused.write(w, r)
			return
		}
	}
	if f != nil {
		p.upstream.ServeHTTP(&lost{header: make(http.Header)}, r)
		panic(http.ErrAbortHandler)
	}
	p.upstream.ServeHTTP(w, r)
}

// count counts a request, and returns the fault that is its lot or nil.
func (p *Proxy) count(op string) *fault {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mu.requests[op]++
	for _, f := range p.mu.faults {
		if f.operation == op && f.times > 0 {
			f.times--
			return f
		}
	}
	return nil
}

func (p *Proxy) note(op string, r *http.Request, refused *problem) {
	if refused.status == http.StatusTooManyRequests {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mu.refused = append(p.mu.refused, op+" "+r.URL.Path+": "+refused.message)
}

// OperationOf names what a request does, see Requests.
func OperationOf(r *http.Request) string {
	query := r.URL.Query()
	inBucket := isBucket(r.URL.Path)
	switch {
	case r.Method == http.MethodGet && inBucket && query.Has("uploads"):
		return "list-multipart"
	case r.Method == http.MethodGet && inBucket:
		return "list"
	case r.Method == http.MethodGet:
		return "get"
	case r.Method == http.MethodHead:
		return "head"
	case r.Method == http.MethodPost && query.Has("uploads"):
		return "create-multipart"
	case r.Method == http.MethodPost && query.Has("uploadId"):
		return "complete"
	case r.Method == http.MethodPut && query.Has("uploadId"):
		return "upload-part"
	case r.Method == http.MethodPut && !inBucket:
		return "put"
	case r.Method == http.MethodDelete && query.Has("uploadId"):
		return "abort"
	case r.Method == http.MethodDelete && !inBucket:
		return "delete"
	}
	return "other"
}
