package nix

import (
	"errors"
	"fmt"
	"iter"
	"strings"
)

// Kind tells the kinds of file in a binary cache apart. The zero value is none
// of them.
type Kind uint8

const (
	KindNARInfo     Kind = iota + 1 // metadata of one store path
	KindNAR                         // a NAR, compressed or not
	KindListing                     // what files are in a NAR, as JSON
	KindLog                         // what a build has printed
	KindRealisation                 // the store path of a derivation's output, as JSON: up to Nix 2.34
	KindBuildTrace                  // the same, since Nix 2.35
	KindDebugInfo                   // where the debug info of a build ID is, as JSON
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
	KindNARInfo:     {"narinfo", "", []string{".narinfo"}, named(checkHashName)},
	KindNAR:         {"nar", "nar/", narSuffixes(), parseSHA256Base32},
	KindListing:     {"listing", "", []string{".ls"}, named(checkHashName)},
	KindLog:         {"log", "log/", []string{""}, named(checkDerivation)},
	KindRealisation: {"realisation", "realisations/", []string{".doi"}, named(checkRealisationName)},
	KindBuildTrace:  {"realisation", "build-trace-v2/", []string{".doi"}, named(checkBuildTraceName)},
	KindDebugInfo:   {"debuginfo", "debuginfo/", []string{".debug"}, named(checkDebugInfoName)},
}

// named is the parseName of a kind whose files are named after something else
// than their hash.
func named(check func(name string) error) func(string) (SHA256, error) {
	return func(name string) (SHA256, error) { return SHA256{}, check(name) }
}

// Kinds yields all kinds.
func Kinds() iter.Seq[Kind] {
	return func(yield func(Kind) bool) {
		for k := KindNARInfo; int(k) < len(kinds) && yield(k); k++ {
		}
	}
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

// String returns "narinfo", "nar", "listing", "log", "realisation" (of both
// kinds that are one) or "debuginfo".
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
//	<hash of a store path>.ls
//	log/<derivation's store path without directory>
//	realisations/sha256:<64 lower-case hexadecimal digits>!<output>.doi
//	build-trace-v2/<derivation's store path without directory>/<output>.doi
//	debuginfo/<40 lower-case hexadecimal digits>.debug
//
// Nix makes them in libstore/binary-cache-store.cc. All elements fit into the
// 255 bytes that file systems have for a name.
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

func checkHashName(name string) error {
	if !isStorePathHash(name) {
		return fmt.Errorf("expected a name of 32 characters of Nix base-32, got %s", quote(name))
	}
	return nil
}

func checkRealisationName(name string) error {
	digits, ok := strings.CutPrefix(name, "sha256:")
	digits, output, found := strings.Cut(digits, "!")
	if !ok || !found || !isHex(digits, sha256HexLen) {
		return fmt.Errorf("expected sha256:, 64 lower-case hexadecimal digits, ! and an output before .doi, got %s", quote(name))
	}
	return checkOutputName(output)
}

func checkBuildTraceName(name string) error {
	drv, output, _ := strings.Cut(name, "/")
	if err := checkDerivation(drv); err != nil {
		return err
	}
	return checkOutputName(output)
}

// checkDebugInfoName takes the build IDs that Nix looks for in a NAR: those of
// 160 bits, which linkers make by default.
func checkDebugInfoName(name string) error {
	if !isHex(name, buildIDHexLen) {
		return fmt.Errorf("expected a build ID of 40 lower-case hexadecimal digits before .debug, got %s", quote(name))
	}
	return nil
}

func checkDerivation(base string) error {
	p, err := parseStorePathBase(base)
	if err == nil && !p.IsDerivation() {
		err = fmt.Errorf("expected the name of a derivation, with .drv at its end, got %s", quote(base))
	}
	return err
}

const (
	sha256HexLen  = 64
	buildIDHexLen = 40

	// maxOutputNameLen leaves room for the rest of the longest file name that
	// has an output in it.
	maxOutputNameLen = 255 - len("sha256:!.doi") - sha256HexLen
)

var errOutputNameLength = errors.New("expected the name of an output to be shorter")

// checkOutputName takes what can be part of the name of an output's store path.
func checkOutputName(name string) error {
	if len(name) > maxOutputNameLen {
		return errOutputNameLength
	}
	if err := checkStorePathName(name); err != nil {
		return fmt.Errorf("output %s: %w", quote(name), err)
	}
	return nil
}

// isHex reports whether s is n lower-case hexadecimal digits.
func isHex(s string, n int) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return len(s) == n
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

// Name returns what tells the file from others of its kind: its path without
// folder and suffix. "" for the zero value.
func (p CachePath) Name() string {
	name, _ := kinds[p.kind].cut(p.key)
	return name
}

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
