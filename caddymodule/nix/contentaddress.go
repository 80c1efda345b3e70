package nix

import (
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// ContentAddress says how a store path follows from the content of its object.
// Clients trust a path that does without any signature. The zero value is none.
// Content addresses can be compared with ==.
type ContentAddress struct {
	method    string // "text:", "fixed:" or "fixed:r:"
	algorithm string // a key of digestSizes
	digest    string // raw bytes
}

const (
	methodText      = "text:"    // the file's bytes are hashed; references allowed
	methodFlat      = "fixed:"   // the file's bytes are hashed; no references
	methodRecursive = "fixed:r:" // the NAR is hashed
)

var digestSizes = map[string]int{
	"md5":    md5.Size,
	"sha1":   sha1.Size,
	"sha256": sha256.Size,
	"sha512": sha512.Size,
}

// ParseContentAddress parses "text:sha256:<digest>" or
// "fixed:[r:]<md5, sha1, sha256 or sha512>:<digest>", the digest in Nix base-32.
// The experimental fixed:git: is refused.
func ParseContentAddress(s string) (ContentAddress, error) {
	ca, err := parseContentAddress(s)
	if err != nil {
		return ContentAddress{}, fmt.Errorf("parse content address: %w", err)
	}
	return ca, nil
}

var errContentAddress = errors.New("expected text:sha256: or fixed:[r:]md5|sha1|sha256|sha512: and Nix base-32")

func parseContentAddress(s string) (ContentAddress, error) {
	method, rest := cutMethod(s)
	algorithm, digits, _ := strings.Cut(rest, ":")
	size, ok := digestSizes[algorithm]
	if !ok || method == "" || method == methodText && algorithm != "sha256" {
		return ContentAddress{}, fmt.Errorf("%w, got %s", errContentAddress, quote(s))
	}
	digest := make([]byte, size)
	if err := decodeBase32(digest, digits); err != nil {
		return ContentAddress{}, fmt.Errorf("%w, got %s", errContentAddress, quote(s))
	}
	return ContentAddress{method, algorithm, string(digest)}, nil
}

func cutMethod(s string) (method, rest string) {
	for _, method := range [...]string{methodText, methodRecursive, methodFlat} {
		if rest, ok := strings.CutPrefix(s, method); ok {
			return method, rest
		}
	}
	return "", s
}

// IsZero reports whether ca is no content address.
func (ca ContentAddress) IsZero() bool { return ca.method == "" }

// String returns the text [ParseContentAddress] takes; "" for the zero value.
func (ca ContentAddress) String() string {
	if ca.IsZero() {
		return ""
	}
	return ca.method + ca.algorithm + ":" + EncodeBase32([]byte(ca.digest))
}

// Verify recomputes the store path from the content address, the references and
// the path's name, and returns an error unless it is path. The path may be
// among the references.
//
// It can't see the content itself: whoever receives the NAR compares that.
func (ca ContentAddress) Verify(path StorePath, references []StorePath) error {
	if err := ca.verify(path, sortedSet(references)); err != nil {
		return fmt.Errorf("verify content address %s: %w", ca, err)
	}
	return nil
}

func (ca ContentAddress) verify(path StorePath, references []StorePath) error {
	computed, err := ca.storePath(path, references)
	if err != nil {
		return err
	}
	if computed != path.Hash() {
		return fmt.Errorf("expected the content address of the store path, got that of hash %s", computed)
	}
	return nil
}

// isNARHash reports whether the digest is that of the NAR, as long as the NAR
// does not mention its own path.
func (ca ContentAddress) isNARHash() bool {
	return ca.method == methodRecursive && ca.algorithm == "sha256"
}

// storePath returns the hash part of the store path that the content address
// stands for with these references, a sorted set; self is the path that is a self-reference among the references,
// and has the name. It follows makeFixedOutputPath and makeTextPath in
// libstore/store-dir-config.cc.
func (ca ContentAddress) storePath(self StorePath, references []StorePath) (hash string, err error) {
	typed := ca.algorithm + ":" + hex.EncodeToString([]byte(ca.digest))
	switch {
	case ca.method == methodText && slices.Contains(references, self):
		return "", errors.New("expected no reference of a text to itself")
	case ca.method == methodText:
		return storePathHash(pathType("text", self, references), typed, self.Name()), nil
	case ca.isNARHash():
		return storePathHash(pathType("source", self, references), typed, self.Name()), nil
	case len(references) > 0:
		return "", fmt.Errorf("expected no references with %s%s", ca.method, ca.algorithm)
	}
	inner := sha256.Sum256([]byte("fixed:out:" + strings.TrimPrefix(ca.method, methodFlat) + typed + ":"))
	return storePathHash("output:out", "sha256:"+hex.EncodeToString(inner[:]), self.Name()), nil
}

// pathType joins a type with the references, the one to the path itself last.
func pathType(name string, self StorePath, references []StorePath) string {
	b := []byte(name)
	for _, r := range references {
		if r != self {
			b = r.append(append(b, ':'))
		}
	}
	if slices.Contains(references, self) {
		b = append(b, ":self"...)
	}
	return string(b)
}

// storePathHash is makeStorePath in libstore/store-dir-config.cc: a SHA-256
// folded to 160 bits.
func storePathHash(pathType, typedHash, name string) string {
	sum := sha256.Sum256([]byte(pathType + ":" + typedHash + ":" + StoreDir + ":" + name))
	var folded [20]byte
	for i, b := range sum {
		folded[i%len(folded)] ^= b
	}
	return EncodeBase32(folded[:])
}
