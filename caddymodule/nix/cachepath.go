package nix

import (
	"fmt"
	"strings"
)

// Kind tells the kinds of file in a binary cache apart. The zero value is none
// of them.
type Kind uint8

const (
	KindNARInfo Kind = iota + 1 // metadata of one store path
	KindNAR                     // a NAR, compressed or not
)

// A kind is one row of kinds: the paths dir + name + suffix. parseName returns
// the file's hash if the name is one, else zero.
type kind struct {
	label     string
	dir       string
	suffixes  []string
	parseName func(name string) (fileHash SHA256, err error)
}

var kinds = [...]kind{
	KindNARInfo: {"narinfo", "", []string{".narinfo"}, parseNARInfoName},
	KindNAR:     {"nar", "nar/", narSuffixes(), parseSHA256Base32},
}

func narSuffixes() []string {
	suffixes := []string{".nar"}
	for _, c := range compressions {
		if c.suffix != "" {
			suffixes = append(suffixes, ".nar"+c.suffix)
		}
	}
	return suffixes
}

// String returns "narinfo" or "nar".
func (k Kind) String() string {
	if k == 0 || int(k) >= len(kinds) {
		return fmt.Sprintf("kind(%d)", uint8(k))
	}
	return kinds[k].label
}

// CachePath is the path of a file below a binary cache's URL, and the key it is
// kept under. Equal files have equal CachePaths, so they can be compared with
// == and used as map keys. The zero value is no path.
type CachePath struct {
	kind     Kind
	key      string
	fileHash SHA256 // of a NAR's file
}

// ParseCachePath is the one gate from a request to a key. The path is relative,
// without a leading slash, and has been percent-decoded once. These exist,
// where hash is Nix base-32:
//
//	<hash of a store path, 32 characters>.narinfo
//	nar/<SHA-256 of the file, 52 characters>.nar[.xz .zst .bz2 .br .lzip .lz4]
func ParseCachePath(path string) (CachePath, error) {
	for i := range kinds {
		name, ok := kinds[i].cut(path)
		if !ok {
			continue
		}
		fileHash, err := kinds[i].parseName(name)
		if err != nil {
			return CachePath{}, fmt.Errorf("parse path: %w", err)
		}
		return CachePath{Kind(i), path, fileHash}, nil
	}
	return CachePath{}, fmt.Errorf("parse path: a binary cache has no %s", quote(path))
}

// cut returns what is between the kind's dir and one of its suffixes.
func (k *kind) cut(path string) (name string, ok bool) {
	rest, ok := strings.CutPrefix(path, k.dir)
	if !ok {
		return "", false
	}
	for _, suffix := range k.suffixes {
		if name, ok := strings.CutSuffix(rest, suffix); ok {
			return name, true
		}
	}
	return "", false
}

func parseNARInfoName(name string) (SHA256, error) {
	if !isStorePathHash(name) {
		return SHA256{}, fmt.Errorf("expected 32 characters of Nix base-32 before .narinfo, got %s", quote(name))
	}
	return SHA256{}, nil
}

// NARInfoPath returns the path of a store path's narinfo. A zero StorePath has
// the zero CachePath.
func NARInfoPath(path StorePath) CachePath {
	if path.IsZero() {
		return CachePath{}
	}
	return CachePath{kind: KindNARInfo, key: path.Hash() + ".narinfo"}
}

// NARPath returns the path of a NAR's file, which has this SHA-256.
func NARPath(fileHash SHA256, compression Compression) CachePath {
	key := make([]byte, 0, len("nar/.nar.lzip")+sha256Base32Len)
	key = appendBase32(append(key, "nar/"...), fileHash[:])
	key = append(append(key, ".nar"...), compression.Suffix()...)
	return CachePath{kind: KindNAR, key: string(key), fileHash: fileHash}
}

// Kind returns the kind of file.
func (p CachePath) Kind() Kind { return p.kind }

// String returns the path, as [ParseCachePath] takes it.
func (p CachePath) String() string { return p.key }

// IsZero reports whether p is no path.
func (p CachePath) IsZero() bool { return p.kind == 0 }

// StorePathHash returns the 32 characters a narinfo is named after; "" for
// other kinds.
func (p CachePath) StorePathHash() string {
	if p.kind != KindNARInfo {
		return ""
	}
	return p.key[:storePathHashLen]
}

// Compression returns what a NAR's name says of its compression: none also where
// it is gzip, which has no suffix of its own.
func (p CachePath) Compression() Compression {
	for c := range compressions {
		if suffix := compressions[c].suffix; suffix != "" && strings.HasSuffix(p.key, ".nar"+suffix) {
			return Compression(c)
		}
	}
	return CompressionNone
}

// FileHash returns the SHA-256 a NAR's file is named after; zero for other
// kinds.
func (p CachePath) FileHash() SHA256 { return p.fileHash }
