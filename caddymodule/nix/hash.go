package nix

import (
	"crypto/sha256"
	"fmt"
	"strings"
)

// sha256Base32Len is the length of a SHA-256 in Nix base-32, in characters.
const sha256Base32Len = 52

const sha256Prefix = "sha256:"

// SHA256 is a SHA-256 digest: of a NAR, or of the file a NAR is kept in.
type SHA256 [sha256.Size]byte

// ParseSHA256 parses "sha256:" and 52 characters of Nix base-32, the only one
// of the spellings Nix reads (base 16, base 64, SRI) that it writes to a
// narinfo.
func ParseSHA256(s string) (SHA256, error) {
	h, err := parseSHA256(s)
	if err != nil {
		return SHA256{}, fmt.Errorf("parse hash: %w", err)
	}
	return h, nil
}

// ParseSHA256Base32 parses the 52 characters of Nix base-32 alone, as in the
// name of a NAR's file.
func ParseSHA256Base32(s string) (SHA256, error) {
	h, err := parseSHA256Base32(s)
	if err != nil {
		return SHA256{}, fmt.Errorf("parse hash: %w", err)
	}
	return h, nil
}

func parseSHA256(s string) (SHA256, error) {
	digits, ok := strings.CutPrefix(s, sha256Prefix)
	if !ok {
		return SHA256{}, fmt.Errorf(`expected "sha256:" and 52 characters of Nix base-32, got %s`, quote(s))
	}
	return parseSHA256Base32(digits)
}

func parseSHA256Base32(s string) (SHA256, error) {
	var h SHA256
	if len(s) != sha256Base32Len {
		return h, fmt.Errorf("expected 52 characters of Nix base-32, got %d: %s", len(s), quote(s))
	}
	if err := decodeBase32(h[:], s); err != nil {
		return SHA256{}, fmt.Errorf("expected Nix base-32, got %s: %w", quote(s), err)
	}
	return h, nil
}

// Base32 returns the 52 characters of Nix base-32.
func (h SHA256) Base32() string { return EncodeBase32(h[:]) }

// String returns "sha256:" and the 52 characters, as [ParseSHA256] takes it.
func (h SHA256) String() string { return string(h.append(nil)) }

func (h SHA256) append(b []byte) []byte {
	return appendBase32(append(b, sha256Prefix...), h[:])
}
