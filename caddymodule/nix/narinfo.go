package nix

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
)

// NARInfo is the metadata of one store path: what its object is and where its
// NAR lies.
//
// [ParseNARInfo] returns only what holds together. One put together otherwise is
// checked by MarshalText.
type NARInfo struct {
	StorePath   StorePath
	Compression Compression
	FileHash    SHA256 // of the NAR's file, as it is compressed
	FileSize    int64  // of the same, in bytes
	NARHash     SHA256
	NARSize     int64 // in bytes
	References  []StorePath
	Deriver     StorePath // the derivation it was built from; zero: not known
	Signatures  []Signature
	CA          ContentAddress // zero: none
}

// Limits of ParseNARInfo. Nix has none; its own narinfos are of about 1 kB with
// one or two signatures.
const (
	MaxNARInfoSize = 1 << 20 // bytes
	MaxSignatures  = 64
)

// NARPath returns the path of the NAR's file.
func (n *NARInfo) NARPath() CachePath { return NARPath(n.FileHash, n.Compression) }

// URL returns the path of the NAR's file as the narinfo gives it, relative to
// the cache: "nar/<FileHash>.nar<suffix>".
func (n *NARInfo) URL() string { return n.NARPath().String() }

// Fingerprint returns the text that is signed (libstore/path-info.cc): store
// path, NAR hash, NAR size and references. Nothing else in a narinfo is.
func (n *NARInfo) Fingerprint() string {
	return string(n.appendFingerprint(make([]byte, 0, n.fingerprintLen())))
}

// SameSignedFields reports whether both narinfos have the same fingerprint, so
// that a signature of one is a signature of the other.
func (n *NARInfo) SameSignedFields(other *NARInfo) bool {
	return n.StorePath == other.StorePath && n.NARHash == other.NARHash && n.NARSize == other.NARSize &&
		slices.Equal(n.sortedReferences(), other.sortedReferences())
}

func (n *NARInfo) appendFingerprint(b []byte) []byte {
	b = n.StorePath.append(append(b, "1;"...))
	b = n.NARHash.append(append(b, ';'))
	b = strconv.AppendInt(append(b, ';'), n.NARSize, 10)
	separator := byte(';')
	for _, r := range n.sortedReferences() {
		b = r.append(append(b, separator))
		separator = ','
	}
	if separator == ';' {
		b = append(b, separator)
	}
	return b
}

// fingerprintLen returns an upper bound.
func (n *NARInfo) fingerprintLen() int {
	const pathOverhead, fixed = len(StoreDir) + len("/,"), 100
	size := fixed + pathOverhead + len(n.StorePath.base)
	for _, r := range n.References {
		size += pathOverhead + len(r.base)
	}
	return size
}

func (n *NARInfo) sortedReferences() []StorePath { return sortedSet(n.References) }

// MarshalText returns the narinfo as Nix writes it (libstore/nar-info.cc), with
// references and signatures sorted and each of them once. It is an error if
// [ParseNARInfo] would not take the result.
func (n *NARInfo) MarshalText() ([]byte, error) { return n.AppendText(nil) }

// AppendText is MarshalText that appends to b.
func (n *NARInfo) AppendText(b []byte) ([]byte, error) {
	if err := n.check(); err != nil {
		return b, fmt.Errorf("marshal narinfo: %w", err)
	}
	begin := len(b)
	b = slices.Grow(b, n.textLen())
	b = n.StorePath.append(append(b, "StorePath: "...))
	b = append(append(b, "\nURL: "...), n.URL()...)
	b = append(append(b, "\nCompression: "...), n.Compression.String()...)
	b = n.FileHash.append(append(b, "\nFileHash: "...))
	b = strconv.AppendInt(append(b, "\nFileSize: "...), n.FileSize, 10)
	b = n.NARHash.append(append(b, "\nNarHash: "...))
	b = strconv.AppendInt(append(b, "\nNarSize: "...), n.NARSize, 10)
	b = n.appendReferences(append(b, "\nReferences: "...))
	if !n.Deriver.IsZero() {
		b = append(append(b, "\nDeriver: "...), n.Deriver.base...)
	}
	for _, sig := range n.signatureTexts() {
		b = append(append(b, "\nSig: "...), sig...)
	}
	if !n.CA.IsZero() {
		b = append(append(b, "\nCA: "...), n.CA.String()...)
	}
	b = append(b, '\n')
	if len(b)-begin > MaxNARInfoSize {
		return b[:begin], fmt.Errorf("marshal narinfo: %w", errNARInfoSize)
	}
	return b, nil
}

func (n *NARInfo) appendReferences(b []byte) []byte {
	for i, r := range n.sortedReferences() {
		if i > 0 {
			b = append(b, ' ')
		}
		b = append(b, r.base...)
	}
	return b
}

// signatureTexts returns the Sig lines' values in the order of their bytes.
func (n *NARInfo) signatureTexts() []string {
	texts := make([]string, len(n.Signatures))
	for i, sig := range n.Signatures {
		texts[i] = sig.String()
	}
	slices.Sort(texts)
	return slices.Compact(texts)
}

// textLen estimates the length of the text.
func (n *NARInfo) textLen() int {
	const fixed, perSignature = 512, 128
	return fixed + n.fingerprintLen() + len(n.Signatures)*perSignature
}

var (
	errNARInfoSize = fmt.Errorf("expected at most %d bytes", MaxNARInfoSize)
	errSignatures  = fmt.Errorf("expected at most %d signatures", MaxSignatures)
	errStorePath   = errors.New("StorePath: expected a store path, got none")
	errSize        = errors.New("FileSize, NarSize: expected sizes above 0")
	errCompression = errors.New("Compression: expected a known one")
	errSameHash    = errors.New("FileHash: expected the NarHash, since Compression is none")
	errSameSize    = errors.New("FileSize: expected the NarSize, since Compression is none")
	errDeriver     = errors.New("Deriver: expected a name that ends in .drv")
	errContentHash = errors.New("CA: expected the NarHash, since nothing refers to the path itself")
)

// check tells whether the fields are valid and agree with each other.
func (n *NARInfo) check() error {
	switch {
	case n.StorePath.IsZero():
		return errStorePath
	case !n.Compression.valid():
		return errCompression
	case n.FileSize <= 0 || n.NARSize <= 0:
		return errSize
	case n.Compression == CompressionNone && n.FileHash != n.NARHash:
		return errSameHash
	case n.Compression == CompressionNone && n.FileSize != n.NARSize:
		return errSameSize
	case !n.Deriver.IsZero() && !n.Deriver.IsDerivation():
		return errDeriver
	case len(n.Signatures) > MaxSignatures:
		return errSignatures
	case slices.ContainsFunc(n.References, StorePath.IsZero):
		return errors.New("References: expected store paths, got none")
	}
	for i := range n.Signatures {
		if err := checkKeyName(n.Signatures[i].KeyName); err != nil {
			return fmt.Errorf("Sig: %w", err)
		}
	}
	return n.checkContentAddress()
}

// checkContentAddress refuses what makes clients abort or refuse the path: the
// content address is not signed, so anyone could have added it.
func (n *NARInfo) checkContentAddress() error {
	if n.CA.IsZero() {
		return nil
	}
	refs := n.sortedReferences()
	if err := n.CA.verify(n.StorePath, refs); err != nil {
		return fmt.Errorf("CA: %w", err)
	}
	if n.CA.isNARHash() && !slices.Contains(refs, n.StorePath) && n.CA.digest != string(n.NARHash[:]) {
		return errContentHash
	}
	return nil
}
