package oidc

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/stevedores-org/nix-cache/caddymodule/auth"
)

// signer is a key of an issuer.
type signer struct {
	id        string
	algorithm jose.SignatureAlgorithm
	private   crypto.Signer
}

func (s signer) public() jose.JSONWebKey {
	return jose.JSONWebKey{Key: s.private.Public(), KeyID: s.id, Algorithm: string(s.algorithm), Use: "sig"}
}

// sign returns a token with these claims.
func (s signer) sign(t testing.TB, claims map[string]any) string {
	t.Helper()
	payload, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	return signPayload(t, jose.SigningKey{Algorithm: s.algorithm, Key: jose.JSONWebKey{Key: s.private, KeyID: s.id}}, payload, nil)
}

func signPayload(t testing.TB, key jose.SigningKey, payload []byte, options *jose.SignerOptions) string {
	t.Helper()
	by, err := jose.NewSigner(key, options)
	if err != nil {
		t.Fatal(err)
	}
	jws, err := by.Sign(payload)
	if err != nil {
		t.Fatal(err)
	}
	text, err := jws.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// Keys, made once: RSA takes its time.
var (
	rsaKey    = sync.OnceValue(func() signer { return newRSA("rsa", jose.RS256, 2048) })
	nextKey   = sync.OnceValue(func() signer { return newEC("next", jose.ES256, elliptic.P256()) })
	strangers = sync.OnceValue(func() signer { return newEC("ec", jose.ES256, elliptic.P256()) })
)

func newRSA(id string, algorithm jose.SignatureAlgorithm, bits int) signer {
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		panic(err)
	}
	return signer{id, algorithm, key}
}

func newEC(id string, algorithm jose.SignatureAlgorithm, curve elliptic.Curve) signer {
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		panic(err)
	}
	return signer{id, algorithm, key}
}

func newEd25519(id string) signer {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	return signer{id, jose.EdDSA, key}
}

// fakeIssuer answers as an issuer does, and counts how often its keys are
// fetched.
type fakeIssuer struct {
	url string
	mu  struct {
		sync.Mutex
		keys    []any // of the key set, as JSON has them
		fetched int
		answer  http.HandlerFunc // in place of all answers
		about   map[string]any   // the discovery document
	}
}

func newFakeIssuer(url string, keys ...signer) *fakeIssuer {
	f := &fakeIssuer{url: url}
	f.publish(keys...)
	f.mu.about = map[string]any{"issuer": url, "jwks_uri": url + "/keys"}
	return f
}

// startFakeIssuer serves on this machine until the test ends.
func startFakeIssuer(t *testing.T, keys ...signer) *fakeIssuer {
	t.Helper()
	f := newFakeIssuer("", keys...)
	server := httptest.NewServer(f)
	t.Cleanup(server.Close)
	f.url = server.URL
	f.describe(map[string]any{"issuer": server.URL, "jwks_uri": server.URL + "/keys"})
	return f
}

func (f *fakeIssuer) publish(keys ...signer) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mu.keys = nil
	for _, k := range keys {
		f.mu.keys = append(f.mu.keys, k.public())
	}
}

func (f *fakeIssuer) publishJSON(keys ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mu.keys = keys
}

func (f *fakeIssuer) describe(about map[string]any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mu.about = about
}

// set has all requests answered so; nil ends that.
func (f *fakeIssuer) set(answer http.HandlerFunc) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mu.answer = answer
}

// fetched returns how often the issuer was asked since the last call.
func (f *fakeIssuer) fetched() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	defer func() { f.mu.fetched = 0 }()
	return f.mu.fetched
}

func (f *fakeIssuer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	answer, body := f.reply(r.URL.Path)
	switch {
	case answer != nil:
		answer(w, r)
	case body == nil:
		http.NotFound(w, r)
	default:
		json.NewEncoder(w).Encode(body)
	}
}

func (f *fakeIssuer) reply(path string) (http.HandlerFunc, any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch path {
	case "/.well-known/openid-configuration":
		f.mu.fetched++
		return f.mu.answer, f.mu.about
	case "/keys":
		return f.mu.answer, map[string]any{"keys": f.mu.keys}
	default:
		return f.mu.answer, nil
	}
}

// RoundTrip is the same without a network, for tests with a clock of their own.
func (f *fakeIssuer) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	f.ServeHTTP(w, r)
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	return w.Result(), nil
}

func down(w http.ResponseWriter, _ *http.Request) {
	http.Error(w, "down", http.StatusBadGateway)
}

const (
	audience   = "https://cache.example.org"
	repository = "my-org/app"
)

// claims returns those of a good token, with changes; nil takes one away.
func (f *fakeIssuer) claims(changes map[string]any) map[string]any {
	now := time.Now()
	all := map[string]any{
		"iss": f.url, "aud": audience, "sub": "repo:my-org/app:ref:refs/heads/main",
		"iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(5 * time.Minute).Unix(),
		"repository": repository,
	}
	maps.Copy(all, changes)
	maps.DeleteFunc(all, func(_ string, v any) bool { return v == nil })
	return all
}

func silent() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

// authority lets jobs of my-org upload.
func (f *fakeIssuer) authority(t *testing.T) Authority {
	t.Helper()
	return f.authorityOver(t, newTransport())
}

func (f *fakeIssuer) authorityOver(t *testing.T, transport http.RoundTripper) Authority {
	t.Helper()
	is := newIssuer(f.url, silent(), transport)
	t.Cleanup(is.Close)
	grant := Grant{
		Issuer: f.url, Audience: audience, Rights: auth.Upload,
		Claims: []Claim{{Name: "repository", Patterns: []string{"my-org/*"}}},
	}
	if err := grant.Check(); err != nil {
		t.Fatal(err)
	}
	return Authority{Grants: []Grant{grant}, Issuers: map[string]*Issuer{f.url: is}}
}
