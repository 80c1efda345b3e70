package oidc

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
)

const (
	fetchTimeout = 10 * time.Second // for both documents together
	maxDocument  = 1 << 20          // bytes of one document
)

// keySet is the public keys of an issuer, for signatures only.
type keySet []jose.JSONWebKey

// find returns the keys of that ID. Without one it has to be clear which key is
// meant (OpenID Connect Core 1.0, 10.1).
func (s keySet) find(id string) []jose.JSONWebKey {
	if id == "" {
		if len(s) == 1 {
			return s
		}
		return nil
	}
	var found []jose.JSONWebKey
	for _, key := range s {
		if key.KeyID == id {
			found = append(found, key)
		}
	}
	return found
}

// fetchKeys asks the issuer where its keys are, and for the keys: OpenID
// Connect Discovery 1.0, section 4, and RFC 7517.
func (is *Issuer) fetchKeys(ctx context.Context) (keySet, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	var about struct {
		Issuer string `json:"issuer"`
		Keys   string `json:"jwks_uri"`
	}
	if err := is.get(ctx, strings.TrimSuffix(is.url, "/")+"/.well-known/openid-configuration", &about); err != nil {
		return nil, err
	}
	if about.Issuer != is.url {
		return nil, fmt.Errorf("it calls itself %.200q: set oidc to just that if it is the one that is meant", about.Issuer)
	}
	if u, err := url.Parse(about.Keys); err != nil || !trusted(u) {
		return nil, fmt.Errorf("its jwks_uri is %.200q: expected https", about.Keys)
	}
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := is.get(ctx, about.Keys, &set); err != nil {
		return nil, err
	}
	return parseKeys(set.Keys)
}

// get reads a JSON document.
func (is *Issuer) get(ctx context.Context, url string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "application/json")
	resp, err := is.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("get %s: %s", url, resp.Status)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxDocument+1))
	switch {
	case err != nil:
		return fmt.Errorf("get %s: %w", url, err)
	case len(body) > maxDocument:
		return fmt.Errorf("get %s: more than %d bytes", url, maxDocument)
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("parse %s: %w", url, err)
	}
	return nil
}

// parseKeys passes over what it can't use, as RFC 7517, section 5, asks for.
func parseKeys(raw []json.RawMessage) (keySet, error) {
	var keys keySet
	for _, r := range raw {
		var key jose.JSONWebKey
		if err := key.UnmarshalJSON(r); err == nil && verifies(key) {
			keys = append(keys, key)
		}
	}
	if len(keys) == 0 {
		return nil, errors.New("it publishes no key that a signature could be verified with")
	}
	return keys, nil
}

// minRSA is the least size of an RSA key, in bits: RFC 7518, 3.3 and 3.5.
const minRSA = 2048

func verifies(key jose.JSONWebKey) bool {
	if key.Use != "" && key.Use != "sig" {
		return false
	}
	switch k := key.Key.(type) {
	case *rsa.PublicKey:
		return k.N.BitLen() >= minRSA
	case *ecdsa.PublicKey, ed25519.PublicKey:
		return true
	default:
		return false
	}
}

// newTransport keeps no connection: there are a few requests an hour.
func newTransport() *http.Transport {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.DisableKeepAlives = true
	t.MaxResponseHeaderBytes = 64 << 10
	return t
}

// checkRedirect follows a few redirects, and none to where keys could be forged.
func checkRedirect(r *http.Request, via []*http.Request) error {
	const most = 3
	switch {
	case len(via) > most:
		return fmt.Errorf("more than %d redirects", most)
	case !trusted(r.URL):
		return fmt.Errorf("redirect to %.200q: expected https", r.URL.Host)
	}
	return nil
}
