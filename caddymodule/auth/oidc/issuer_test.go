package oidc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/stevedores-org/nix-cache/caddymodule/auth"
)

// inBubble runs a test on a clock of its own, before an issuer without a network.
func inBubble(t *testing.T, test func(t *testing.T, f *fakeIssuer, a Authority)) {
	rsaKey() // made outside
	nextKey()
	strangers()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeIssuer("https://issuer.example.org", nextKey())
		test(t, f, f.authorityOver(t, f))
	})
}

// pass lets the bubble's clock go on.
func pass(d time.Duration) { <-time.After(d) }

func (f *fakeIssuer) wantFetched(t *testing.T, want int) {
	t.Helper()
	synctest.Wait()
	if got := f.fetched(); got != want {
		t.Errorf("the keys were fetched %d times, want %d", got, want)
	}
}

func wantAccepted(t *testing.T, a Authority, token string) {
	t.Helper()
	if _, err := a.Identify(t.Context(), token); err != nil {
		t.Error(err)
	}
}

func wantUnavailable(t *testing.T, a Authority, token string) {
	t.Helper()
	_, err := a.Identify(t.Context(), token)
	if unavailable := new(UnavailableError); !errors.As(err, &unavailable) || errors.Is(err, auth.ErrUnknownCredential) {
		t.Errorf("Identify: %v; want that the issuer is unavailable", err)
	}
}

func TestKeysAreFetchedOnceAndForAll(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeIssuer, a Authority) {
		f.wantFetched(t, 0)
		token := nextKey().sign(t, f.claims(nil))
		var group sync.WaitGroup
		for range 50 {
			group.Go(func() { wantAccepted(t, a, token) })
		}
		group.Wait()
		f.wantFetched(t, 1)
		for range 50 {
			wantAccepted(t, a, token)
		}
		f.wantFetched(t, 0)
	})
}

func TestRotation(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeIssuer, a Authority) {
		wantAccepted(t, a, nextKey().sign(t, f.claims(nil)))
		f.wantFetched(t, 1)
		f.publish(strangers())
		wantAccepted(t, a, strangers().sign(t, f.claims(nil))) // at once, though keys were fetched just now
		f.wantFetched(t, 1)
		wantRefused(t, a, nextKey().sign(t, f.claims(nil)), wrongSignature)
	})
}

// A key that the issuer withdraws counts for an hour at most.
func TestKeysAreFetchedAgain(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeIssuer, a Authority) {
		wantAccepted(t, a, nextKey().sign(t, f.claims(nil)))
		f.publish(strangers())
		pass(refreshAfter)
		f.wantFetched(t, 1)
		wantAccepted(t, a, nextKey().sign(t, f.claims(nil))) // nobody waits for it
		f.wantFetched(t, 1)
		wantRefused(t, a, nextKey().sign(t, f.claims(nil)), wrongSignature)
	})
}

// Made-up key IDs neither hammer the issuer nor stay in memory, and who sends a
// good token meanwhile is not kept waiting.
func TestMadeUpKeyIDs(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeIssuer, a Authority) {
		good := nextKey().sign(t, f.claims(nil))
		wantAccepted(t, a, good)
		f.wantFetched(t, 1)
		start := time.Now()
		for round := range 10 {
			var group sync.WaitGroup
			for i := range 100 {
				made := strangers()
				made.id = fmt.Sprint(round, i)
				token := made.sign(t, f.claims(nil))
				group.Go(func() { wantRefused(t, a, token, wrongSignature) })
			}
			synctest.Wait()
			before := time.Now()
			wantAccepted(t, a, good)
			if waited := time.Since(before); waited > 0 {
				t.Errorf("a good token waited %v", waited)
			}
			group.Wait()
		}
		if took := time.Since(start); took < 10*interval {
			t.Errorf("10 fetches within %v", took)
		}
		f.wantFetched(t, 10)
	})
}

func TestTooManyWait(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeIssuer, a Authority) {
		release := make(chan struct{})
		f.set(func(w http.ResponseWriter, r *http.Request) { <-release; down(w, r) })
		token := nextKey().sign(t, f.claims(nil))
		var group sync.WaitGroup
		for range maxWaiting {
			group.Go(func() { wantUnavailable(t, a, token) })
		}
		synctest.Wait()
		before := time.Now()
		wantUnavailable(t, a, token)
		if waited := time.Since(before); waited > 0 {
			t.Errorf("one too many waited %v", waited)
		}
		close(release)
		group.Wait()
	})
}

// While the issuer is down, known keys count for a day, and an unknown one is
// neither good nor bad.
func TestOutage(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeIssuer, a Authority) {
		wantAccepted(t, a, nextKey().sign(t, f.claims(nil)))
		f.wantFetched(t, 1)
		f.set(down)
		for range 23 {
			wantAccepted(t, a, nextKey().sign(t, f.claims(nil)))
			wantUnavailable(t, a, strangers().sign(t, f.claims(nil)))
			pass(time.Hour)
		}
		f.wantFetched(t, 23)
		wantAccepted(t, a, nextKey().sign(t, f.claims(nil)))
		pass(time.Hour)
		wantUnavailable(t, a, nextKey().sign(t, f.claims(nil)))
		f.fetched()
		before := time.Now()
		wantUnavailable(t, a, nextKey().sign(t, f.claims(nil)))
		if waited := time.Since(before); waited > 0 {
			t.Errorf("the issuer was just down, and yet a request waited %v", waited)
		}
		f.wantFetched(t, 0)
		f.set(nil)
		pass(interval)
		wantAccepted(t, a, nextKey().sign(t, f.claims(nil)))
		f.wantFetched(t, 1)
	})
}

func TestSlowIssuer(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeIssuer, a Authority) {
		f.set(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
		before := time.Now()
		wantUnavailable(t, a, nextKey().sign(t, f.claims(nil)))
		if waited := time.Since(before); waited != fetchTimeout {
			t.Errorf("it took %v, want %v", waited, fetchTimeout)
		}
	})
}

// A client that leaves does not end the fetch, which others may wait for.
func TestClientsThatLeave(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeIssuer, a Authority) {
		release := make(chan struct{})
		f.set(func(w http.ResponseWriter, r *http.Request) { <-release; f.set(nil); f.ServeHTTP(w, r) })
		ctx, leave := context.WithCancel(t.Context())
		left := make(chan error)
		token := nextKey().sign(t, f.claims(nil))
		go func() {
			_, err := a.Identify(ctx, token)
			left <- err
		}()
		synctest.Wait()
		leave()
		if err := <-left; !errors.Is(err, context.Canceled) {
			t.Errorf("Identify: %v, want that its context is over", err)
		}
		close(release)
		wantAccepted(t, a, token)
	})
}

func TestClose(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeIssuer, a Authority) {
		f.set(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
		token := nextKey().sign(t, f.claims(nil))
		var group sync.WaitGroup
		group.Go(func() { wantUnavailable(t, a, token) })
		synctest.Wait()
		before := time.Now()
		a.Issuers[f.url].Close()
		group.Wait()
		wantUnavailable(t, a, token)
		if waited := time.Since(before); waited > 0 {
			t.Errorf("it took %v", waited)
		}
	})
}

// Issuers that don't answer as they should: nobody is let in, nor refused.
func TestBadIssuers(t *testing.T) {
	endless := func(w http.ResponseWriter, _ *http.Request) {
		chunk := []byte(strings.Repeat(" ", 64<<10))
		for {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	}
	about := func(name string, value any) func(f *fakeIssuer) {
		return func(f *fakeIssuer) {
			document := map[string]any{"issuer": f.url, "jwks_uri": f.url + "/keys"}
			document[name] = value
			f.describe(document)
		}
	}
	answer := func(h http.HandlerFunc) func(f *fakeIssuer) { return func(f *fakeIssuer) { f.set(h) } }
	for _, test := range []struct {
		name  string
		spoil func(f *fakeIssuer)
		want  string
	}{
		{"another issuer in the document", about("issuer", "https://evil.example.org"), "calls itself"},
		{"no issuer in the document", about("issuer", nil), "calls itself"},
		{"keys over http", about("jwks_uri", "http://example.org/keys"), "expected https"},
		{"keys in a file", about("jwks_uri", "file:///etc/passwd"), "expected https"},
		{"no keys", about("jwks_uri", nil), "expected https"},
		{"keys that are not there", func(f *fakeIssuer) { about("jwks_uri", f.url+"/nowhere")(f) }, "404"},
		{"empty key set", func(f *fakeIssuer) { f.publish() }, "no key"},
		{"key set of what can't be used", func(f *fakeIssuer) {
			small := newRSA("rsa", jose.RS256, 1024)
			forEncryption := rsaKey().public()
			forEncryption.Use = "enc"
			f.publishJSON(small.public(), forEncryption,
				json.RawMessage(`{"kty":"oct","kid":"rsa","k":"c2VjcmV0"}`), json.RawMessage(`{"kty":"OKP","crv":"X448","kid":"rsa","x":"AAAA"}`),
				json.RawMessage(`"rsa"`), jose.JSONWebKey{Key: rsaKey().private, KeyID: "rsa"})
		}, "no key"},
		{"not JSON", answer(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>") }), "parse"},
		{"endless document", answer(endless), "more than"},
		{"redirects in a circle", answer(func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.URL.Path, http.StatusFound) }), "redirects"},
		{"redirect to http", answer(func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://example.org/", http.StatusFound)
		}), "expected https"},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := startFakeIssuer(t, rsaKey())
			test.spoil(f)
			a, token := f.authority(t), rsaKey().sign(t, f.claims(nil))
			wantUnavailable(t, a, token)
			if _, err := a.Identify(t.Context(), token); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("Identify: %v; want %q", err, test.want)
			}
		})
	}
}

// Keys of kinds that are unknown here don't spoil the others.
func TestForeignKeysInTheSet(t *testing.T) {
	f := startFakeIssuer(t)
	unnamed := rsaKey().public()
	unnamed.Algorithm, unnamed.Use = "", ""
	f.publishJSON(json.RawMessage(`{"kty":"EC","crv":"secp256k1","kid":"k","x":"AA","y":"AA"}`), json.RawMessage(`{"kty":"AKP"}`), unnamed)
	a := f.authority(t)
	wantAccepted(t, a, rsaKey().sign(t, f.claims(nil)))
	wantAccepted(t, a, signer{"", jose.PS256, rsaKey().private}.sign(t, f.claims(nil))) // no kid, but one key only
}

func TestKeysOnAnotherHost(t *testing.T) {
	target := startFakeIssuer(t, rsaKey())
	f := startFakeIssuer(t, rsaKey())
	moved := startFakeIssuer(t)
	moved.set(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, target.url+"/keys", http.StatusFound)
	})
	for _, at := range []string{target.url, moved.url} {
		f.describe(map[string]any{"issuer": f.url, "jwks_uri": at + "/keys"})
		wantAccepted(t, f.authority(t), rsaKey().sign(t, f.claims(nil)))
	}
}
