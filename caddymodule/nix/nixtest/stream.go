package nixtest

import (
	"crypto/sha256"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"strings"

	"github.com/stevedores-org/nix-cache/caddymodule/nix"
)

// Stream is a package, uncompressed, whose NAR is never in memory.
type Stream struct {
	NARInfo *nix.NARInfo // unsigned; sign it with PrivateKey.Sign
	name    string
	size    int64
}

// NewStream is [NewPackage] for any size. It reads the NAR once for its hash.
func NewStream(name string, size int64) Stream {
	s := Stream{name: name, size: size}
	hash := sha256.New()
	narSize := must(io.Copy(hash, s.Reader()))
	sum := nix.SHA256(hash.Sum(nil))
	s.NARInfo = &nix.NARInfo{
		StorePath: StorePath(name),
		FileHash:  sum,
		FileSize:  narSize,
		NARHash:   sum,
		NARSize:   narSize,
	}
	return s
}

// Reader returns a new reader of the NAR, with the same bytes each time.
func (s Stream) Reader() io.Reader {
	var header strings.Builder
	for _, token := range []string{"nix-archive-1", "(", "type", "regular", "contents"} {
		writeToken(&header, token)
	}
	_ = binary.Write(&header, binary.LittleEndian, uint64(s.size))

	var trailer strings.Builder
	trailer.WriteString(padding(s.size))
	writeToken(&trailer, ")")

	content := rand.NewChaCha8(sha256.Sum256([]byte("content " + s.name)))
	return io.MultiReader(
		strings.NewReader(header.String()),
		io.LimitReader(content, s.size),
		strings.NewReader(trailer.String()),
	)
}

// writeToken writes a NAR's string: length, bytes, padding.
func writeToken(b *strings.Builder, token string) {
	_ = binary.Write(b, binary.LittleEndian, uint64(len(token)))
	b.WriteString(token + padding(int64(len(token))))
}

// padding returns what fills n bytes up to a multiple of 8.
func padding(n int64) string { return "\x00\x00\x00\x00\x00\x00\x00"[:-n&7] }
