package integration

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// oidcIssuer signs tokens and publishes its keys, as the one of a CI does. It is
// written without the library that the cache verifies with.
type oidcIssuer struct {
	url string
	mu  struct {
		sync.Mutex
		keys []oidcKey // published
		down bool
	}
}

type oidcKey struct {
	id      string
	private *rsa.PrivateKey
}

func newOIDCKey(tb testing.TB, id string) oidcKey {
	tb.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		tb.Fatal(err)
	}
	return oidcKey{id, key}
}

func startIssuer(tb testing.TB, keys ...oidcKey) *oidcIssuer {
	tb.Helper()
	is := new(oidcIssuer)
	is.publish(keys...)
	server := httptest.NewServer(is)
	tb.Cleanup(server.Close)
	is.url = server.URL
	return is
}

func (is *oidcIssuer) publish(keys ...oidcKey) {
	is.mu.Lock()
	defer is.mu.Unlock()
	is.mu.keys = keys
}

// setDown breaks each connection from now on, or ends that.
func (is *oidcIssuer) setDown(down bool) {
	is.mu.Lock()
	defer is.mu.Unlock()
	is.mu.down = down
}

func (is *oidcIssuer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	is.mu.Lock()
	keys, down := is.mu.keys, is.mu.down
	is.mu.Unlock()
	if down {
		panic(http.ErrAbortHandler)
	}
	switch r.URL.Path {
	case "/.well-known/openid-configuration":
		json.NewEncoder(w).Encode(map[string]any{"issuer": is.url, "jwks_uri": is.url + "/jwks"})
	case "/jwks":
		set := []map[string]string{}
		for _, key := range keys {
			set = append(set, key.public())
		}
		json.NewEncoder(w).Encode(map[string]any{"keys": set})
	default:
		http.NotFound(w, r)
	}
}

func base64URL(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// public is the key as in RFC 7517.
func (k oidcKey) public() map[string]string {
	return map[string]string{
		"kty": "RSA", "use": "sig", "alg": "RS256", "kid": k.id,
		"n": base64URL(k.private.N.Bytes()), "e": base64URL(big.NewInt(int64(k.private.E)).Bytes()),
	}
}

// audience is what the jobs of the tests ask their tokens for.
const audience = "https://cache.example.org"

// token signs one for a job of my-org/app, with other claims where they are given.
func (is *oidcIssuer) token(tb testing.TB, key oidcKey, changes map[string]any) string {
	tb.Helper()
	now := time.Now()
	claims := map[string]any{
		"iss": is.url, "aud": audience, "iat": now.Unix(), "exp": now.Add(5 * time.Minute).Unix(),
		"sub": "repo:my-org/app:ref:refs/heads/main", "repository": "my-org/app", "ref": "refs/heads/main",
	}
	maps.Copy(claims, changes)
	var parts []string
	for _, part := range []any{map[string]any{"alg": "RS256", "typ": "JWT", "kid": key.id}, claims} {
		text, err := json.Marshal(part)
		if err != nil {
			tb.Fatal(err)
		}
		parts = append(parts, base64URL(text))
	}
	signed := strings.Join(parts, ".")
	sum := sha256.Sum256([]byte(signed))
	signature, err := rsa.SignPKCS1v15(nil, key.private, crypto.SHA256, sum[:])
	if err != nil {
		tb.Fatal(err)
	}
	return signed + "." + base64URL(signature)
}

// directive lets jobs of my-org upload.
func (is *oidcIssuer) directive() string {
	return "oidc " + is.url + ` {
		audience ` + audience + `
		claim repository my-org/*
		claim ref refs/heads/main refs/tags/*
		allow upload
	}`
}
