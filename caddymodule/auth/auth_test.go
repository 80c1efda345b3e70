package auth

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

func tokens(t *testing.T, secrets map[string]Token) *Tokens {
	t.Helper()
	var ts Tokens
	for secret, token := range secrets {
		s, err := ParseSecret(secret)
		if err != nil {
			t.Fatal(err)
		}
		if err := ts.Add(token, s); err != nil {
			t.Fatal(err)
		}
	}
	return &ts
}

func hashed(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return "sha256:" + hex.EncodeToString(sum[:])
}

// identify tells who makes the request.
func identify(t *testing.T, a Authority, r *http.Request) (Token, error) {
	t.Helper()
	presented, err := Presented(r)
	if err != nil {
		return Token{}, err
	}
	return a.Identify(t.Context(), presented)
}

func TestIdentify(t *testing.T) {
	ts := tokens(t, map[string]Token{
		"open sesame":      {"ci", Upload},
		hashed("by hash"):  {"janitor", Delete | Upload},
		"sEcreT:withcolon": {"colon", Read},
	})
	basic := func(user, password string) string {
		r := &http.Request{Header: http.Header{}}
		r.SetBasicAuth(user, password)
		return r.Header.Get("Authorization")
	}
	for _, test := range []struct {
		name, header string
		want         string
		err          error
	}{
		{"bearer", "Bearer open sesame", "ci", nil},
		{"scheme in lower case", "bearer open sesame", "ci", nil},
		{"basic with any user", basic("anybody", "open sesame"), "ci", nil},
		{"basic without user", basic("", "by hash"), "janitor", nil},
		{"password with a colon", basic("u", "sEcreT:withcolon"), "colon", nil},
		{"given by its hash", "Bearer by hash", "janitor", nil},
		{"the hash is not the secret", "Bearer " + hashed("by hash"), "", ErrUnknownCredential},
		{"wrong", "Bearer open sesam", "", ErrUnknownCredential},
		{"longer", "Bearer open sesame!", "", ErrUnknownCredential},
		{"user name in place of the password", basic("open sesame", "x"), "", ErrUnknownCredential},
		{"none", "", "", ErrNoCredential},
		{"empty bearer", "Bearer ", "", ErrNoCredential},
		{"empty password", basic("open sesame", ""), "", ErrNoCredential},
		{"malformed basic", "Basic !!!", "", ErrNoCredential},
		{"other scheme", "Digest open sesame", "", ErrNoCredential},
		{"scheme alone", "Bearer", "", ErrNoCredential},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := &http.Request{Header: http.Header{}}
			if test.header != "" {
				r.Header.Set("Authorization", test.header)
			}
			got, err := identify(t, ts, r)
			if got.Name != test.want || !errors.Is(err, test.err) {
				t.Errorf("Identify = %q, %v; want %q, %v", got.Name, err, test.want, test.err)
			}
		})
	}
}

func TestNobodyIsKnownToTheZeroTokens(t *testing.T) {
	var ts Tokens
	if _, err := ts.Identify(t.Context(), "x"); !errors.Is(err, ErrUnknownCredential) {
		t.Errorf("Identify: %v, want ErrUnknownCredential", err)
	}
	if ts.Any(Read) || ts.Any(Upload) || ts.Any(Delete) {
		t.Error("the zero Tokens grants a right")
	}
}

func TestSecretsThatAreRefused(t *testing.T) {
	for _, secret := range []string{"", "read", "upload", "delete", "sha256:", "sha256:1234", "sha256:" + strings.Repeat("zz", 32), hashed("x") + "00"} {
		_, err := ParseSecret(secret)
		if err == nil {
			t.Errorf("ParseSecret(%q) accepted", secret)
		} else if len(secret) > 10 && strings.Contains(err.Error(), secret[8:]) {
			t.Errorf("the error shows the secret: %v", err)
		}
	}
}

func TestOneSecretForTwoTokensIsRefused(t *testing.T) {
	ts := tokens(t, map[string]Token{"same": {"a", Upload}})
	secret, err := ParseSecret(hashed("same"))
	if err != nil {
		t.Fatal(err)
	}
	if err := ts.Add(Token{"b", Delete}, secret); err == nil {
		t.Error("a second token with the same secret was accepted")
	}
}

func TestRights(t *testing.T) {
	rights, err := ParseRights([]string{"upload", "delete"})
	if err != nil {
		t.Fatal(err)
	}
	if !rights.Has(Upload) || !rights.Has(Delete) || rights.Has(Read) {
		t.Errorf("rights = %b", rights)
	}
	if _, err := ParseRights([]string{"write"}); err == nil {
		t.Error("an unknown right was accepted")
	}
	const secret = "7f0a4c93"
	if _, err := ParseRights([]string{secret}); err == nil || strings.Contains(err.Error(), secret) {
		t.Errorf("a secret in a right's place: %v", err)
	}
}

// TestSecretsAreNotKept: there is nothing that what is presented could be
// compared with, but hashes. A near miss's has no more in common with the right
// one's than any other.
func TestSecretsAreNotKept(t *testing.T) {
	const secret = "correct-horse-battery-staple"
	ts := tokens(t, map[string]Token{secret: {"ci", Upload}})
	if state := fmt.Sprintf("%#v", *ts); strings.Contains(state, secret[:4]) {
		t.Errorf("the secret is kept: %s", state)
	}
}

// TestPlaceTellsNothing: all tokens are compared, whichever matches. One that
// stops at the first is a hundred times as fast as one that goes to the last.
func TestPlaceTellsNothing(t *testing.T) {
	const many = 5_000
	ts := new(Tokens)
	for i := range many {
		ts.known = append(ts.known, known{sha256.Sum256(fmt.Append(nil, "secret ", i)), Token{"somebody", Read}})
	}
	presented := []string{"secret 0", fmt.Sprint("secret ", many-1), "nobody's"}
	took := make([][]time.Duration, len(presented))
	for range 31 {
		for i, secret := range presented {
			begin := time.Now()
			ts.Identify(t.Context(), secret)
			took[i] = append(took[i], time.Since(begin))
		}
	}
	var medians []time.Duration
	for _, times := range took {
		slices.Sort(times)
		medians = append(medians, times[len(times)/2])
	}
	if slices.Max(medians) > 3*slices.Min(medians) {
		t.Errorf("the first, the last and none take %v", medians)
	}
}
