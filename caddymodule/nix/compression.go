package nix

import "fmt"

// Compression is the way a NAR's file is compressed. The zero value is
// CompressionNone.
type Compression uint8

// The compressions that are accepted. Nix reads more (compress, grzip, lrzip,
// lzma, lzop), but gives their files no suffix to know them by.
const (
	CompressionNone Compression = iota
	CompressionXZ
	CompressionZstd
	CompressionBzip2
	CompressionBrotli
	CompressionGzip
	CompressionLzip
	CompressionLZ4
)

// compressions has Nix's names, and the suffixes BinaryCacheStore gives the
// files (libstore/binary-cache-store.cc): gzip has none.
var compressions = [...]struct{ name, suffix string }{
	CompressionNone:   {"none", ""},
	CompressionXZ:     {"xz", ".xz"},
	CompressionZstd:   {"zstd", ".zst"},
	CompressionBzip2:  {"bzip2", ".bz2"},
	CompressionBrotli: {"br", ".br"},
	CompressionGzip:   {"gzip", ""},
	CompressionLzip:   {"lzip", ".lzip"},
	CompressionLZ4:    {"lz4", ".lz4"},
}

// ParseCompression parses the name a narinfo has for a compression.
func ParseCompression(name string) (Compression, error) {
	c, err := parseCompression(name)
	if err != nil {
		return 0, fmt.Errorf("parse compression: %w", err)
	}
	return c, nil
}

func parseCompression(name string) (Compression, error) {
	for c := range compressions {
		if compressions[c].name == name {
			return Compression(c), nil
		}
	}
	return 0, fmt.Errorf("expected none, xz, zstd, bzip2, br, gzip, lzip or lz4, got %s", quote(name))
}

func (c Compression) valid() bool { return int(c) < len(compressions) }

// String returns Nix's name, such as "zstd".
func (c Compression) String() string {
	if !c.valid() {
		return fmt.Sprintf("compression(%d)", uint8(c))
	}
	return compressions[c].name
}

// Suffix returns what follows ".nar" in the file's name, such as ".zst"; "" for
// none and gzip.
func (c Compression) Suffix() string {
	if !c.valid() {
		return ""
	}
	return compressions[c].suffix
}
