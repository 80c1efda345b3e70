package nix

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Signature is an Ed25519 signature of a narinfo's fingerprint.
type Signature struct {
	KeyName string // of the key it is said to be made with
	Data    [ed25519.SignatureSize]byte
}

// ParseSignature parses "name:base64 of 64 bytes".
//
// The base64 has its padding and nothing else: Nix ignores what follows the
// padding and Go skips line breaks, so either would let one signature have many
// texts.
func ParseSignature(s string) (Signature, error) {
	sig, err := parseSignature(s)
	if err != nil {
		return Signature{}, fmt.Errorf("parse signature: %w", err)
	}
	return sig, nil
}

func parseSignature(s string) (Signature, error) {
	var sig Signature
	name, err := parseNamed(sig.Data[:], s)
	if err != nil {
		return Signature{}, fmt.Errorf("expected key name:base64 of 64 bytes, got %s: %w", quote(s), err)
	}
	sig.KeyName = name
	return sig, nil
}

// String returns the text [ParseSignature] takes.
func (s Signature) String() string { return formatNamed(s.KeyName, s.Data[:]) }

// parseNamed parses "name:base64", the form of signatures and keys alike, and
// fills data from the base64. Its errors quote nothing, since s may be secret.
func parseNamed(data []byte, s string) (name string, err error) {
	name, text, ok := strings.Cut(s, ":")
	if !ok {
		return "", errNoColon
	}
	if err := checkKeyName(name); err != nil {
		return "", err
	}
	return name, decodeBase64(data, text)
}

func formatNamed(name string, data []byte) string {
	return name + ":" + strictBase64.EncodeToString(data)
}

var (
	errNoColon  = errors.New("there is no colon")
	errKeyName  = errors.New("the key name is empty, or has a space, a colon or an unprintable character")
	errLongName = fmt.Errorf("the key name has more than %d bytes", maxKeyName)
	errBase64   = errors.New("the base64 is malformed")
	errBase64In = errors.New("the base64 has another length")
)

// maxKeyName is the most bytes that a key's name may have: a narinfo's signatures,
// of which anybody may add some, must not grow it to a multiple of its size.
const maxKeyName = 255

// checkKeyName allows what fits a Sig line, a list of keys separated by spaces,
// and an error text.
func checkKeyName(name string) error {
	if len(name) > maxKeyName {
		return errLongName
	}
	bad := func(r rune) bool { return r == ' ' || r == ':' || !unicode.IsPrint(r) }
	if name == "" || !utf8.ValidString(name) || strings.ContainsFunc(name, bad) {
		return errKeyName
	}
	return nil
}

var strictBase64 = base64.StdEncoding.Strict()

// decodeBase64 fills data, of at most 64 bytes, from its one canonical text.
func decodeBase64(data []byte, text string) error {
	if len(text) != strictBase64.EncodedLen(len(data)) {
		return errBase64In
	}
	var buf [66]byte // room for a text of the same length without padding
	n, err := strictBase64.Decode(buf[:], []byte(text))
	if err != nil || n != len(data) {
		return errBase64
	}
	copy(data, buf[:])
	return nil
}
