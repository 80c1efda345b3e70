// Package auth tells who makes a request, and what they may do: named tokens,
// presented as Bearer or as the password of Basic, which is all that Nix can send.
//
// It keeps hashes of the secrets only, and compares in a time that depends on
// nothing but the length of what was presented.
package auth

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// Rights is a set of things that the holder of a token may do.
type Rights uint8

const (
	Read   Rights = 1 << iota // GET and HEAD where the cache is private
	Upload                    // PUT
	Delete                    // DELETE
)

var rightNames = map[string]Rights{"read": Read, "upload": Upload, "delete": Delete}

// ParseRights parses names of rights: "read", "upload", "delete".
func ParseRights(names []string) (Rights, error) {
	var rights Rights
	for _, name := range names {
		r, ok := rightNames[name]
		if !ok {
			return 0, fmt.Errorf("unknown right%s: expected read, upload or delete", quoteWord(name))
		}
		rights |= r
	}
	return rights, nil
}

// quoteWord quotes what looks like the name of a right, but not what may be a
// secret in the wrong place.
func quoteWord(s string) string {
	const longest = 10
	if len(s) > longest || strings.Trim(s, "abcdefghijklmnopqrstuvwxyz") != "" {
		return ""
	}
	return fmt.Sprintf(" %q", s)
}

// Has reports whether all of want are among the rights.
func (r Rights) Has(want Rights) bool { return r&want == want }

// Token is who makes a request. Its zero value is nobody.
type Token struct {
	Name   string
	Rights Rights
}

// Secret is the hash of a token's secret.
type Secret [sha256.Size]byte

// hashPrefix marks a secret that is given by its hash.
const hashPrefix = "sha256:"

// ParseSecret takes a secret, or "sha256:" and the 64 hexadecimal digits of the
// SHA-256 of one. Its errors don't show it.
//
// The name of a right is none: where a variable that should hold the secret is not
// set, Caddy leaves the word out, and the right after it would be the password.
func ParseSecret(s string) (Secret, error) {
	digits, hashed := strings.CutPrefix(s, hashPrefix)
	_, right := rightNames[s]
	switch {
	case s == "":
		return Secret{}, errors.New("the secret is empty")
	case right:
		return Secret{}, fmt.Errorf("the name of a right, %s, stands where the secret should: is a variable not set?", s)
	case !hashed:
		return sha256.Sum256([]byte(s)), nil
	}
	sum, err := hex.DecodeString(digits)
	if err != nil || len(sum) != sha256.Size {
		return Secret{}, errors.New("after sha256: expected 64 hexadecimal digits")
	}
	return Secret(sum), nil
}

// Tokens are those that are known. The zero value knows none. It is immutable
// once it is in use.
type Tokens struct {
	known []known
}

type known struct {
	secret Secret
	token  Token
}

// Add makes a token known. It is an error if its secret is known already, since
// then nobody could tell which of the two is meant.
func (ts *Tokens) Add(token Token, secret Secret) error {
	if other, taken := ts.holder(secret); taken {
		return fmt.Errorf("tokens %s and %s have the same secret: give each its own", other.Name, token.Name)
	}
	ts.known = append(ts.known, known{secret, token})
	return nil
}

// holder returns the token that has a secret.
func (ts *Tokens) holder(secret Secret) (Token, bool) {
	for _, k := range ts.known {
		if k.secret == secret {
			return k.token, true
		}
	}
	return Token{}, false
}

func (ts *Tokens) names() map[string]bool {
	names := map[string]bool{}
	for _, k := range ts.known {
		names[k.token.Name] = true
	}
	return names
}

// Any reports whether a token is known that has the right.
func (ts *Tokens) Any(right Rights) bool {
	for _, k := range ts.known {
		if k.token.Rights.Has(right) {
			return true
		}
	}
	return false
}

// Identify tells whose secret it is. It takes as long whatever is presented, but
// for hashing what is longer.
func (ts *Tokens) Identify(_ context.Context, presented string) (Token, error) {
	sum := sha256.Sum256([]byte(presented))
	found := -1
	for i := range ts.known { // all of them, whichever matches
		same := subtle.ConstantTimeCompare(sum[:], ts.known[i].secret[:])
		found = subtle.ConstantTimeSelect(same, i, found)
	}
	if found < 0 {
		return Token{}, ErrUnknownCredential
	}
	return ts.known[found].token, nil
}
