package nix

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// StoreDir is the store's directory. Caches for another one are not supported:
// store paths, and with them signatures, depend on it.
const StoreDir = "/nix/store"

const (
	storePathHashLen    = 32 // characters of Nix base-32, for 160 bits
	maxStorePathNameLen = 211
)

// StorePath is the path of a store object, such as
// /nix/store/s66mzxpvicwk07gjbjfw9izjfa797vsw-hello-2.12.1, or none: the zero
// value. Store paths can be compared with ==.
type StorePath struct {
	base string // empty or valid
}

// ParseStorePath parses a full path. It takes neither a path inside a store
// object nor one that would have to be cleaned first.
func ParseStorePath(path string) (StorePath, error) {
	p, err := parseStorePath(path)
	if err != nil {
		return StorePath{}, fmt.Errorf("parse store path: %w", err)
	}
	return p, nil
}

// ParseStorePathBase parses a store path without its directory: a hash of 32
// characters of Nix base-32, a dash, and a name of 1 to 211 characters.
func ParseStorePathBase(base string) (StorePath, error) {
	p, err := parseStorePathBase(base)
	if err != nil {
		return StorePath{}, fmt.Errorf("parse store path: %w", err)
	}
	return p, nil
}

func parseStorePath(path string) (StorePath, error) {
	base, ok := strings.CutPrefix(path, StoreDir+"/")
	if !ok {
		return StorePath{}, fmt.Errorf("expected a path below %s, got %s", StoreDir, quote(path))
	}
	return parseStorePathBase(base)
}

func parseStorePathBase(base string) (StorePath, error) {
	if len(base) <= storePathHashLen || base[storePathHashLen] != '-' || !isStorePathHash(base[:storePathHashLen]) {
		return StorePath{}, fmt.Errorf("expected 32 characters of Nix base-32, a dash and a name, got %s", quote(base))
	}
	if err := checkStorePathName(base[storePathHashLen+1:]); err != nil {
		return StorePath{}, fmt.Errorf("%w, got %s", err, quote(base))
	}
	return StorePath{base}, nil
}

func isStorePathHash(s string) bool {
	if len(s) != storePathHashLen {
		return false
	}
	for i := range len(s) {
		if base32Values[s[i]] == notBase32 {
			return false
		}
	}
	return true
}

// isNameChar tells which bytes a store path's name is made of.
var isNameChar = func() (table [256]bool) {
	const chars = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz+-._?="
	for i := range len(chars) {
		table[chars[i]] = true
	}
	return table
}()

var (
	errNameLength = errors.New("expected a name of 1 to 211 characters")
	errNameChars  = errors.New("expected a name of letters, digits and +-._?= only")
	errNameDots   = errors.New(`expected a name other than "." and "..", alone or before a dash`)
)

// checkStorePathName follows checkName in libstore/path.cc.
func checkStorePathName(name string) error {
	if name == "" || len(name) > maxStorePathNameLen {
		return errNameLength
	}
	for i := range len(name) {
		if !isNameChar[name[i]] {
			return errNameChars
		}
	}
	if first, _, _ := strings.Cut(name, "-"); first == "." || first == ".." {
		return errNameDots
	}
	return nil
}

// IsZero reports whether p is no store path.
func (p StorePath) IsZero() bool { return p.base == "" }

// Hash returns the 32 characters before the dash; "" for the zero value.
func (p StorePath) Hash() string { return p.base[:min(len(p.base), storePathHashLen)] }

// Name returns what follows the dash; "" for the zero value.
func (p StorePath) Name() string { return p.base[min(len(p.base), storePathHashLen+1):] }

// Base returns the path without its directory; "" for the zero value.
func (p StorePath) Base() string { return p.base }

// String returns the full path; "" for the zero value.
func (p StorePath) String() string {
	if p.IsZero() {
		return ""
	}
	return StoreDir + "/" + p.base
}

func (p StorePath) append(b []byte) []byte {
	return append(append(b, StoreDir+"/"...), p.base...)
}

// IsDerivation reports whether the name ends in ".drv".
func (p StorePath) IsDerivation() bool { return strings.HasSuffix(p.base, ".drv") }

// compareStorePaths orders paths as Nix does: by their bytes.
func compareStorePaths(a, b StorePath) int { return strings.Compare(a.base, b.base) }

// sortedSet returns the paths sorted and each once; as they are, if they are so.
func sortedSet(paths []StorePath) []StorePath {
	if isSortedSet(paths) {
		return paths
	}
	paths = slices.Clone(paths)
	slices.SortFunc(paths, compareStorePaths)
	return slices.Compact(paths)
}

// isSortedSet reports whether each path is greater than the one before.
func isSortedSet(paths []StorePath) bool {
	for i := 1; i < len(paths); i++ {
		if compareStorePaths(paths[i-1], paths[i]) >= 0 {
			return false
		}
	}
	return true
}
