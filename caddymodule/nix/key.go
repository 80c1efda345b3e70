package nix

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// PublicKey is a named Ed25519 key that signatures are checked with. Public
// keys can be compared with ==.
type PublicKey struct {
	name string
	key  [ed25519.PublicKeySize]byte
}

// ParsePublicKey parses "name:base64 of 32 bytes", as it is in nix.conf's
// trusted-public-keys. Its errors show no more of the text than the name.
func ParsePublicKey(s string) (PublicKey, error) {
	var k PublicKey
	name, err := parseNamed(k.key[:], s)
	if _, secret := ParsePrivateKey(s); secret == nil {
		err = errors.New("it is a secret key; give its public half, and take a new key if others could read this one")
	}
	if err != nil {
		return PublicKey{}, fmt.Errorf("parse public key%s: expected name:base64 of 32 bytes: %w", quoteNamed(s), err)
	}
	k.name = name
	return k, nil
}

// quoteNamed quotes what stands before the colon, with a space before it: behind it
// may be a secret, and where there is no colon all but a short word may be.
func quoteNamed(s string) string {
	const short = 12
	name, _, named := strings.Cut(s, ":")
	if !named && len(name) > short {
		return ""
	}
	return " " + quoteKeyName(name)
}

// Name returns the key's name, such as "cache.example.org-1".
func (k PublicKey) Name() string { return k.name }

// String returns the text [ParsePublicKey] takes.
func (k PublicKey) String() string { return formatNamed(k.name, k.key[:]) }

// PublicKeys are the keys that are trusted. The zero value trusts none.
type PublicKeys struct {
	keys []PublicKey // one of each name
}

// NewPublicKeys returns a set of keys. The same key may be given twice, but two
// keys of one name may not: a Nix client would know only the first of them.
func NewPublicKeys(keys ...PublicKey) (PublicKeys, error) {
	var set PublicKeys
	for _, k := range keys {
		known, ok := set.ByName(k.name)
		if ok && known != k {
			return PublicKeys{}, fmt.Errorf("trust public keys: there are two different keys of the name %s; rename one", quote(k.name))
		}
		if !ok {
			set.keys = append(set.keys, k)
		}
	}
	return set, nil
}

// String returns the keys as trusted-public-keys has them, sorted.
func (ks PublicKeys) String() string {
	texts := make([]string, len(ks.keys))
	for i, k := range ks.keys {
		texts[i] = k.String()
	}
	slices.Sort(texts)
	return strings.Join(texts, " ")
}

// Len returns the number of different keys.
func (ks PublicKeys) Len() int { return len(ks.keys) }

// ByName returns the key of that name.
func (ks PublicKeys) ByName(name string) (PublicKey, bool) {
	i := slices.IndexFunc(ks.keys, func(k PublicKey) bool { return k.name == name })
	if i < 0 {
		return PublicKey{}, false
	}
	return ks.keys[i], true
}

// Verify returns the name of a trusted key that signed the narinfo.
//
// It is an error, in one line fit for the uploader, if there is none, and also
// if any signature under a trusted name is not by that key: then the narinfo
// was changed after it was signed, or another key goes by that name. Signatures
// under names that are not trusted are ignored.
func (ks PublicKeys) Verify(n *NARInfo) (keyName string, err error) {
	fingerprint := n.appendFingerprint(make([]byte, 0, n.fingerprintLen()))
	for i := range n.Signatures {
		sig := &n.Signatures[i]
		key, ok := ks.ByName(sig.KeyName)
		if !ok {
			continue
		}
		if !ed25519.Verify(key.key[:], fingerprint, sig.Data[:]) {
			return "", fmt.Errorf("verify narinfo: the signature by %s is wrong: the path was changed since, or another key had that name before; sign it with a key of a new name, and trust that", quoteKeyName(sig.KeyName))
		}
		if keyName == "" {
			keyName = sig.KeyName
		}
	}
	if keyName == "" {
		return "", ks.untrustedError(n)
	}
	return keyName, nil
}

func (ks PublicKeys) untrustedError(n *NARInfo) error {
	trusted := make([]string, len(ks.keys))
	for i, k := range ks.keys {
		trusted[i] = k.name
	}
	signers := make([]string, len(n.Signatures))
	for i, s := range n.Signatures {
		signers[i] = s.KeyName
	}
	return fmt.Errorf("verify narinfo: no signature by a trusted key; trusted: %s; signed by: %s; sign the path with a trusted key", listKeyNames(trusted), listKeyNames(signers))
}

// listKeyNames quotes the first two names.
func listKeyNames(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	const most = 2
	var b strings.Builder
	for i, name := range names[:min(len(names), most)] {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(quoteKeyName(name))
	}
	if rest := len(names) - most; rest > 0 {
		fmt.Fprintf(&b, " and %d more", rest)
	}
	return b.String()
}

func quoteKeyName(name string) string { return quoteAtMost(name, 40) }

// PrivateKey is a named Ed25519 key that signs. Formatted or logged it shows its
// name alone, wherever it is nested; only SecretText tells the secret. The zero
// value can't sign.
type PrivateKey struct {
	name string
	// secret returns the key. It is a function since fmt and its like print
	// a field of a struct without calling its methods, and follow pointers.
	secret func() ed25519.PrivateKey
}

func newPrivateKey(name string, secret ed25519.PrivateKey) PrivateKey {
	return PrivateKey{name, func() ed25519.PrivateKey { return secret }}
}

// ParsePrivateKey parses "name:base64 of 64 bytes", as written by
// nix-store --generate-binary-cache-key: seed, then public key. Its errors hold
// no part of the text.
func ParsePrivateKey(s string) (PrivateKey, error) {
	secret := make(ed25519.PrivateKey, ed25519.PrivateKeySize)
	name, err := parseNamed(secret, s)
	if err != nil {
		return PrivateKey{}, fmt.Errorf("parse private key: expected name:base64 of 64 bytes: %w", err)
	}
	// A public half that is not the seed's would make signatures that give
	// the secret away.
	if !ed25519.NewKeyFromSeed(secret.Seed()).Equal(secret) {
		return PrivateKey{}, errors.New("parse private key: its two halves do not belong together; restore the file or generate a new key")
	}
	return newPrivateKey(name, secret), nil
}

// GeneratePrivateKey returns a new random key.
func GeneratePrivateKey(name string) (PrivateKey, error) {
	if err := checkKeyName(name); err != nil {
		return PrivateKey{}, fmt.Errorf("generate private key %s: %w", quote(name), err)
	}
	_, secret, err := ed25519.GenerateKey(nil)
	if err != nil {
		return PrivateKey{}, fmt.Errorf("generate private key %s: %w", quote(name), err)
	}
	return newPrivateKey(name, secret), nil
}

// Sign returns the key's signature of the narinfo. It does not add it there.
func (k PrivateKey) Sign(n *NARInfo) Signature {
	fingerprint := n.appendFingerprint(make([]byte, 0, n.fingerprintLen()))
	sig := ed25519.Sign(k.secret(), fingerprint)
	return Signature{KeyName: k.name, Data: [ed25519.SignatureSize]byte(sig)}
}

// PublicKey returns the key that checks what k signs.
func (k PrivateKey) PublicKey() PublicKey {
	return PublicKey{name: k.name, key: [ed25519.PublicKeySize]byte(k.secret()[ed25519.SeedSize:])}
}

// Name returns the key's name.
func (k PrivateKey) Name() string { return k.name }

// IsZero reports whether k is no key.
func (k PrivateKey) IsZero() bool { return k.secret == nil }

// SecretText returns the text [ParsePrivateKey] takes, to be put in a file that
// nobody else can read. It is not called MarshalText, which loggers and
// encoders call unasked.
func (k PrivateKey) SecretText() string { return formatNamed(k.name, k.secret()) }

// String tells the key's name, and not the secret.
func (k PrivateKey) String() string { return "private key " + quoteKeyName(k.name) }

// Format makes every verb print what String returns.
func (k PrivateKey) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(k.String())) }
