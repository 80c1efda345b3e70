package upload

import (
	"slices"
	"strings"

	"github.com/stevedores-org/nix-cache/caddymodule/nix"
)

// Compressions are those that NARs may come in. None at all: every one.
type Compressions []nix.Compression

// DefaultCompressions are those that Nix's own caches and common push tools use.
var DefaultCompressions = Compressions{
	nix.CompressionNone, nix.CompressionXZ, nix.CompressionZstd,
	nix.CompressionBzip2, nix.CompressionGzip, nix.CompressionBrotli,
}

// ParseCompressions reads names as narinfos have them, separated by spaces.
func ParseCompressions(names string) (Compressions, error) {
	var cs Compressions
	for name := range strings.FieldsSeq(names) {
		c, err := nix.ParseCompression(name)
		if err != nil {
			return nil, err
		}
		cs = append(cs, c)
	}
	return cs, nil
}

// String returns the names, separated by spaces.
func (cs Compressions) String() string {
	names := make([]string, len(cs))
	for i, c := range cs {
		names[i] = c.String()
	}
	return strings.Join(names, " ")
}

// require refuses what is compressed in none of the ways that it may be.
func (cs Compressions) require(may ...nix.Compression) error {
	if len(cs) == 0 || slices.ContainsFunc(may, func(c nix.Compression) bool { return slices.Contains(cs, c) }) {
		return nil
	}
	return reject(Malformed, "%s: this cache takes no NARs compressed so (accept_compression %s); push with ?compression=%s", may[0], cs, cs[0])
}

// compressionsOf are those that a NAR of this name can have: gzip gives the name
// nothing to know it by.
func compressionsOf(nar nix.CachePath) []nix.Compression {
	if c := nar.Compression(); c != nix.CompressionNone {
		return []nix.Compression{c}
	}
	return []nix.Compression{nix.CompressionNone, nix.CompressionGzip}
}

// maxFileSize is the most bytes that a file of a NAR of so many bytes may have.
// Encoders add to what they can't compress far less, so that the rest would be there
// to be downloaded for nothing.
func maxFileSize(narSize int64) int64 {
	const least, percent = 64 << 10, 100
	return narSize + narSize/percent + least
}

func requireFileSize(n *nix.NARInfo) error {
	if most := maxFileSize(n.NARSize); n.FileSize > most {
		return reject(Mismatch, "FileSize is %d, more than the %d bytes that a NAR of %d bytes may take up compressed; compress it anew", n.FileSize, most, n.NARSize)
	}
	return nil
}
