package oidc

import (
	"crypto/elliptic"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/stevedores-org/nix-cache/caddymodule/auth"
)

// wantRefused checks that nobody is let in, for this reason, and that the error
// does not show the token.
func wantRefused(t *testing.T, a Authority, token, reason string) {
	t.Helper()
	got, err := a.Identify(t.Context(), token)
	if got != (auth.Token{}) || !errors.Is(err, auth.ErrUnknownCredential) {
		t.Errorf("Identify = %+v, %v; want an unknown credential", got, err)
		return
	}
	var refused *RefusedError
	errors.As(err, &refused)
	if (refused == nil) != (reason == "") || refused != nil && refused.Reason != reason {
		t.Errorf("Identify: %v; want the reason %q", err, reason)
	}
	for part := range strings.SplitSeq(token, ".") {
		if len(part) > 20 && strings.Contains(err.Error(), part) {
			t.Errorf("the error shows the token: %v", err)
		}
	}
}

func wantToken(t *testing.T, a Authority, token, name string, rights auth.Rights) {
	t.Helper()
	got, err := a.Identify(t.Context(), token)
	if err != nil || got != (auth.Token{Name: name, Rights: rights}) {
		t.Errorf("Identify = %+v, %v; want %s with %b", got, err, name, rights)
	}
}

func (f *fakeIssuer) jobName() string {
	return "oidc:" + strings.TrimPrefix(strings.TrimPrefix(f.url, "http://"), "https://") + ":repo:my-org/app:ref:refs/heads/main"
}

func TestAlgorithms(t *testing.T) {
	keys := []signer{
		rsaKey(),
		{"rsa384", jose.RS384, rsaKey().private}, {"rsa512", jose.RS512, rsaKey().private},
		{"pss256", jose.PS256, rsaKey().private}, {"pss384", jose.PS384, rsaKey().private}, {"pss512", jose.PS512, rsaKey().private},
		newEC("ec256", jose.ES256, elliptic.P256()), newEC("ec384", jose.ES384, elliptic.P384()), newEC("ec512", jose.ES512, elliptic.P521()),
		newEd25519("ed"),
	}
	f := startFakeIssuer(t, keys...)
	a := f.authority(t)
	for _, key := range keys {
		t.Run(string(key.algorithm), func(t *testing.T) {
			wantToken(t, a, key.sign(t, f.claims(nil)), f.jobName(), auth.Upload)
		})
	}
}

func TestClaimsOfTokens(t *testing.T) {
	f := startFakeIssuer(t, rsaKey())
	a := f.authority(t)
	at := func(d time.Duration) int64 { return time.Now().Add(d).Unix() }
	for _, test := range []struct {
		name    string
		changes map[string]any
		reason  string // "": let in
	}{
		{"good", nil, ""},
		{"several audiences", map[string]any{"aud": []string{"other", audience}}, ""},
		{"no times but exp", map[string]any{"iat": nil, "nbf": nil}, ""},
		{"within the leeway", map[string]any{"exp": at(-30 * time.Second), "iat": at(30 * time.Second), "nbf": at(30 * time.Second)}, ""},
		{"expired", map[string]any{"exp": at(-2 * time.Minute)}, expired},
		{"no expiry", map[string]any{"exp": nil}, incomplete},
		{"not yet valid", map[string]any{"nbf": at(2 * time.Minute)}, tooEarly},
		{"issued in the future", map[string]any{"iat": at(2 * time.Minute)}, tooEarly},
		{"expiry is a text", map[string]any{"exp": "never"}, wrongType("exp")},
		{"expiry is a list", map[string]any{"exp": []int{1}}, wrongType("exp")},
		{"expiry out of range", map[string]any{"exp": 1e300}, wrongType("exp")},
		{"start is a text", map[string]any{"nbf": "now"}, wrongType("nbf")},
		{"time of issue is a truth", map[string]any{"iat": true}, wrongType("iat")},
		{"audience is a number", map[string]any{"aud": 7}, wrongType("aud")},
		{"an audience is a number", map[string]any{"aud": []any{audience, 7}}, wrongType("aud")},
		{"subject is an object", map[string]any{"sub": map[string]any{"a": 1}}, wrongType("sub")},
		{"identifier is a number", map[string]any{"jti": 7}, wrongType("jti")},
		{"expiry of another name", map[string]any{"exp": nil, "Exp": at(time.Minute)}, incomplete},
		{"wrong audience", map[string]any{"aud": "https://other.example.org"}, wrongAudience},
		{"audience with more to it", map[string]any{"aud": audience + "/"}, wrongAudience},
		{"wrong audiences", map[string]any{"aud": []string{"a", "b"}}, wrongAudience},
		{"no audience", map[string]any{"aud": nil}, wrongAudience},
		{"empty audiences", map[string]any{"aud": []string{}}, wrongAudience},
		{"wrong repository", map[string]any{"repository": "evil/app"}, wrongClaims},
		{"repository of a longer name", map[string]any{"repository": "my-org-evil/app"}, wrongClaims},
		{"no repository", map[string]any{"repository": nil}, wrongClaims},
		{"repository of another name", map[string]any{"repository": nil, "Repository": repository}, wrongClaims},
	} {
		t.Run(test.name, func(t *testing.T) {
			token := rsaKey().sign(t, f.claims(test.changes))
			if test.reason == "" {
				wantToken(t, a, token, f.jobName(), auth.Upload)
			} else {
				wantRefused(t, a, token, test.reason)
			}
		})
	}
}

// TestTheLogSaysWhatDiffers: the operator sees the values, the sender does not.
func TestTheLogSaysWhatDiffers(t *testing.T) {
	f := startFakeIssuer(t, rsaKey())
	_, err := f.authority(t).Identify(t.Context(), rsaKey().sign(t, f.claims(map[string]any{"repository": "evil/app"})))
	var refused *RefusedError
	if !errors.As(err, &refused) {
		t.Fatal(err)
	}
	for _, part := range []string{"repository", "evil/app", "my-org/*"} {
		if !strings.Contains(err.Error(), part) || strings.Contains(refused.Reason, part) {
			t.Errorf("%q: want it in the error, and not in the reason: %v", part, err)
		}
	}
}

// Whatever is forged lets nobody in.
func TestForgedTokens(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeIssuer, a Authority) {
		f.publish(rsaKey(), nextKey())
		testForgedTokens(t, f, a)
	})
}

func testForgedTokens(t *testing.T, f *fakeIssuer, a Authority) {
	good := rsaKey().sign(t, f.claims(nil))
	wantToken(t, a, good, f.jobName(), auth.Upload)
	parts := strings.Split(good, ".")
	payload, err := json.Marshal(f.claims(nil))
	if err != nil {
		t.Fatal(err)
	}
	encode := base64.RawURLEncoding.EncodeToString
	unsigned := func(header string) string { return encode([]byte(header)) + "." + encode(payload) + "." }
	der, err := x509.MarshalPKIXPublicKey(rsaKey().private.Public())
	if err != nil {
		t.Fatal(err)
	}
	withSecret := func(secret []byte) string {
		return signPayload(t, jose.SigningKey{Algorithm: jose.HS256, Key: jose.JSONWebKey{Key: secret, KeyID: "rsa"}}, payload, nil)
	}
	jwk, err := rsaKey().public().MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	stranger := strangers()
	impostor := stranger
	impostor.id = "rsa"
	nextAsRSA := nextKey()
	nextAsRSA.id = "rsa"
	pss := signer{"rsa", jose.PS256, rsaKey().private} // published for RS256 only
	embedded := signPayload(t, jose.SigningKey{Algorithm: jose.ES256, Key: stranger.private}, payload, &jose.SignerOptions{EmbedJWK: true})
	critical := signPayload(t, jose.SigningKey{Algorithm: jose.RS256, Key: jose.JSONWebKey{Key: rsaKey().private, KeyID: "rsa"}}, payload,
		(&jose.SignerOptions{}).WithHeader("crit", []string{"exp2"}).WithHeader("exp2", 1))
	other := f.claims(nil)
	other["iss"] = "https://evil.example.org"
	nearly := f.claims(nil)
	nearly["iss"] = f.url + "/"
	for _, test := range []struct{ name, token, reason string }{
		{"empty", "", ""},
		{"no JWT", "upload-secret", ""},
		{"dots only", "..", ""},
		{"JSON in place of a compact token", `{"payload":"e30","signatures":[{"protected":"e30","signature":""}]}`, ""},
		{"alg none", unsigned(`{"alg":"none","kid":"rsa"}`), ""},
		{"alg None", unsigned(`{"alg":"None","kid":"rsa"}`), ""},
		{"no alg", unsigned(`{"kid":"rsa"}`), ""},
		{"no signature", unsigned(`{"alg":"RS256","kid":"rsa"}`), wrongSignature},
		{"signature cut off", parts[0] + "." + parts[1] + ".", wrongSignature},
		{"two algs", unsigned(`{"alg":"RS256","alg":"none","kid":"rsa"}`), ""},
		{"HMAC with the public key as PEM", withSecret(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})), ""},
		{"HMAC with the public key as DER", withSecret(der), ""},
		{"HMAC with the public key as JWK", withSecret(jwk), ""},
		{"signed by a stranger", stranger.sign(t, f.claims(nil)), wrongSignature},
		{"signed by a stranger under a kid of the issuer", impostor.sign(t, f.claims(nil)), wrongSignature},
		{"kid of another key", nextAsRSA.sign(t, f.claims(nil)), wrongSignature},
		{"no kid, and several keys", signer{"", jose.RS256, rsaKey().private}.sign(t, f.claims(nil)), wrongSignature},
		{"algorithm that the key is not for", pss.sign(t, f.claims(nil)), wrongSignature},
		{"key in the header", embedded, wrongSignature},
		{"unknown critical header", critical, wrongSignature},
		{"other claims", parts[0] + "." + encode([]byte(strings.Replace(string(payload), repository, "my-org/bpp", 1))) + "." + parts[2], wrongSignature},
		{"other header", encode([]byte(`{"alg":"RS256","kid":"rsa","x":1}`)) + "." + parts[1] + "." + parts[2], wrongSignature},
		{"claims that are no object", signPayload(t, jose.SigningKey{Algorithm: jose.RS256, Key: rsaKey().private}, []byte(`[]`), nil), ""},
		{"a claim twice", signPayload(t, jose.SigningKey{Algorithm: jose.RS256, Key: rsaKey().private}, []byte(`{"iss":"`+f.url+`","iss":"x"}`), nil), ""},
		{"another issuer", rsaKey().sign(t, other), ""},
		{"issuer with more to it", rsaKey().sign(t, nearly), ""},
		{"four parts", good + ".x", ""},
		{"padding", good + "=", ""},
		{"space before it", " " + good, ""},
		{"too long", rsaKey().sign(t, f.claims(map[string]any{"x": strings.Repeat("x", maxToken)})), ""},
	} {
		t.Log(test.name)
		wantRefused(t, a, test.token, test.reason)
	}
}

// What is not for an issuer that is configured asks nobody anything.
func TestStrangersAskNoIssuer(t *testing.T) {
	f := startFakeIssuer(t, rsaKey())
	a := f.authority(t)
	foreign := f.claims(nil)
	foreign["iss"] = "https://evil.example.org"
	for _, token := range []string{"", "a.b.c", "upload-secret", rsaKey().sign(t, foreign), strings.Repeat("x.", maxToken)} {
		wantRefused(t, a, token, "")
	}
	if n := f.fetched(); n != 0 {
		t.Errorf("the keys were fetched %d times", n)
	}
}

func TestSeveralGrants(t *testing.T) {
	f := startFakeIssuer(t, rsaKey())
	a := f.authority(t)
	a.Grants = []Grant{
		{Issuer: f.url, Audience: audience, Rights: auth.Read, Claims: []Claim{{"repository", []string{"my-org/*"}}}},
		{Issuer: f.url, Audience: audience, Rights: auth.Upload, Claims: []Claim{{"repository", []string{"my-org/*"}}, {"ref", []string{"refs/heads/main", "refs/tags/*"}}}},
		{Issuer: f.url, Audience: "delete", Rights: auth.Delete, Claims: []Claim{{"repository", []string{repository}}}},
		{Issuer: "https://gitlab.com", Audience: audience, Rights: auth.Delete, Claims: []Claim{{"repository", []string{"my-org/*"}}}},
	}
	for _, test := range []struct {
		name   string
		claims map[string]any
		want   auth.Rights
	}{
		{"the first", map[string]any{"ref": "refs/heads/topic"}, auth.Read},
		{"two", map[string]any{"ref": "refs/tags/v1"}, auth.Read | auth.Upload},
		{"of another audience", map[string]any{"aud": "delete"}, auth.Delete},
		{"of both audiences", map[string]any{"aud": []string{"delete", audience}, "ref": "refs/heads/main"}, auth.Read | auth.Upload | auth.Delete},
	} {
		t.Run(test.name, func(t *testing.T) {
			wantToken(t, a, rsaKey().sign(t, f.claims(test.claims)), f.jobName(), test.want)
		})
	}
	wantRefused(t, a, rsaKey().sign(t, f.claims(map[string]any{"repository": "evil/x", "ref": "refs/heads/main"})), wrongClaims)
	if !a.Any(auth.Read) || !a.Any(auth.Delete) || (Authority{}).Any(auth.Read) {
		t.Error("Any tells other rights than the grants")
	}
}

func TestNamesAreCleanAndBounded(t *testing.T) {
	f := startFakeIssuer(t, rsaKey())
	a := f.authority(t)
	host := strings.TrimPrefix(f.url, "http://")
	wantToken(t, a, rsaKey().sign(t, f.claims(map[string]any{"sub": "a\nb\x1b[1mc dü"})), "oidc:"+host+":a_b_[1mc_d_", auth.Upload)
	got, err := a.Identify(t.Context(), rsaKey().sign(t, f.claims(map[string]any{"sub": strings.Repeat("s", 5000)})))
	if err != nil || len(got.Name) != maxName {
		t.Errorf("a name of %d bytes, %v; want %d", len(got.Name), err, maxName)
	}
}

func FuzzIdentify(f *testing.F) {
	issuer := newFakeIssuer("https://issuer.example.org", nextKey())
	good := nextKey().sign(f, issuer.claims(nil))
	for _, seed := range []string{"", "..", "a.b.c", good + "x", good[:len(good)-1], strings.ToLower(good), "eyJhbGciOiJub25lIn0.e30.", "e30.e30.e30"} {
		f.Add(seed)
	}
	is := newIssuer(issuer.url, silent(), issuer)
	f.Cleanup(is.Close)
	if _, err := is.find(f.Context(), nextKey().id); err != nil {
		f.Fatal(err)
	}
	issuer.set(down) // and from then on nobody is asked twice for what a mutation made up
	a := Authority{
		Grants:  []Grant{{Issuer: issuer.url, Audience: audience, Rights: auth.Upload, Claims: []Claim{{"repository", []string{"my-org/*"}}}}},
		Issuers: map[string]*Issuer{issuer.url: is},
	}
	parts := strings.Split(good, ".")
	f.Fuzz(func(t *testing.T, presented string) {
		token, err := a.Identify(t.Context(), presented)
		if err == nil && !strings.HasPrefix(presented, parts[0]+"."+parts[1]+".") {
			t.Errorf("%q lets in %+v", presented, token)
		}
		if err != nil && token != (auth.Token{}) {
			t.Errorf("%q: %+v and %v", presented, token, err)
		}
	})
}
