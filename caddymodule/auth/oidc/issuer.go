package oidc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"
)

const (
	// refreshAfter is the age from which keys are fetched again, while they go
	// on being used. What an issuer has withdrawn counts for so long at most,
	// if the issuer can be reached.
	refreshAfter = time.Hour

	// maxAge is for how long keys count while the issuer can't be reached.
	maxAge = 24 * time.Hour

	// interval is the least time between two fetches from an issuer: anybody
	// can make up tokens with key IDs that nobody knows.
	interval = 5 * time.Second

	// maxWaiting is how many requests may wait for a fetch.
	maxWaiting = 1000
)

// Issuer has the keys that one issuer publishes. They are fetched when a token
// comes that needs them, kept, and fetched again when a token names a key that is
// not among them.
type Issuer struct {
	url    string
	client *http.Client
	log    *slog.Logger

	ctx    context.Context // of all fetches; ends at Close
	cancel context.CancelFunc
	group  sync.WaitGroup

	mu struct {
		sync.Mutex
		keys    keySet
		fetched time.Time // when the keys were
		tried   time.Time // when the last fetch ended
		err     error     // of the last fetch
		fetch   *fetch    // under way, or about to begin
	}
}

// fetch is one that requests can wait for. Its results are there once it is done.
type fetch struct {
	done    chan struct{}
	waiting atomic.Int64
	keys    keySet
	err     error
}

// NewIssuer returns the issuer of that URL, which CheckIssuer accepts. It
// fetches nothing yet. What goes wrong between requests is written to the log.
func NewIssuer(issuer string, log *slog.Logger) *Issuer {
	return newIssuer(issuer, log, newTransport())
}

func newIssuer(issuer string, log *slog.Logger, transport http.RoundTripper) *Issuer {
	is := &Issuer{
		url:    issuer,
		log:    log.With("issuer", issuer),
		client: &http.Client{Transport: transport, CheckRedirect: checkRedirect},
	}
	is.ctx, is.cancel = context.WithCancel(context.Background())
	return is
}

// Close ends a fetch that is under way. Known keys can still be used.
func (is *Issuer) Close() {
	is.mu.Lock()
	is.cancel()
	is.mu.Unlock()
	is.group.Wait()
}

// CheckIssuer tells whether the URL of an issuer can be trusted to lead to it:
// HTTPS, or HTTP on this machine.
func CheckIssuer(issuer string) error {
	u, err := url.Parse(issuer)
	switch {
	case err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return fmt.Errorf("issuer %q is not a URL such as https://token.actions.githubusercontent.com", issuer)
	case !trusted(u):
		return fmt.Errorf("issuer %q: expected https, so that nobody can pass off other keys as the issuer's", issuer)
	}
	return nil
}

func trusted(u *url.URL) bool {
	host := u.Hostname()
	local := host == "localhost" || net.ParseIP(host).IsLoopback()
	return u.Scheme == "https" || u.Scheme == "http" && local
}

// find returns the keys of that ID, or the only key for an empty ID. It waits for
// a fetch only if it has to. The error is a *RefusedError if the issuer has no
// such key, and an *UnavailableError if it could not be asked.
func (is *Issuer) find(ctx context.Context, id string) ([]jose.JSONWebKey, error) {
	keys, age := is.known()
	found := keys.find(id)
	if len(found) > 0 && age < refreshAfter {
		return found, nil
	}
	f, err := is.refresh()
	if len(found) > 0 && age < maxAge {
		return found, nil
	}
	if err == nil {
		err = f.wait(ctx)
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil {
		return nil, &UnavailableError{is.url, err}
	}
	if found = f.keys.find(id); len(found) == 0 {
		return nil, &RefusedError{Reason: wrongSignature, Detail: fmt.Sprintf("the issuer has no key for kid %.200q", id)}
	}
	return found, nil
}

func (is *Issuer) known() (keySet, time.Duration) {
	is.mu.Lock()
	defer is.mu.Unlock()
	return is.mu.keys, time.Since(is.mu.fetched)
}

// refresh begins a fetch, or joins the one that is there. Soon after one that
// went well the next waits until the interval is over: then it will have the
// answer. Soon after one that failed there is none.
func (is *Issuer) refresh() (*fetch, error) {
	is.mu.Lock()
	defer is.mu.Unlock()
	pause := interval - time.Since(is.mu.tried)
	switch {
	case is.ctx.Err() != nil:
		return nil, is.ctx.Err()
	case is.mu.fetch != nil:
		return is.mu.fetch, nil
	case is.mu.err != nil && pause > 0:
		return nil, is.mu.err
	}
	f := &fetch{done: make(chan struct{})}
	is.mu.fetch = f
	is.group.Go(func() { is.run(f, pause) })
	return f, nil
}

func (is *Issuer) run(f *fetch, pause time.Duration) {
	select {
	case <-time.After(pause):
		f.keys, f.err = is.fetchKeys(is.ctx)
	case <-is.ctx.Done():
		f.err = is.ctx.Err()
	}
	if f.err != nil && is.ctx.Err() == nil {
		is.log.Warn("the keys of an OIDC issuer can't be fetched; those that are known stay valid for a day", "error", f.err)
	}
	is.settle(f)
	close(f.done)
}

func (is *Issuer) settle(f *fetch) {
	is.mu.Lock()
	defer is.mu.Unlock()
	is.mu.fetch = nil
	is.mu.err = f.err
	is.mu.tried = time.Now()
	if f.err == nil {
		is.mu.keys, is.mu.fetched = f.keys, is.mu.tried
	}
}

// wait returns the error of the fetch, once it is done.
func (f *fetch) wait(ctx context.Context) error {
	defer f.waiting.Add(-1)
	if f.waiting.Add(1) > maxWaiting {
		return errors.New("too many requests wait for it")
	}
	select {
	case <-f.done:
		return f.err
	case <-ctx.Done():
		return ctx.Err()
	}
}
