// Package nixtest makes synthetic packages for tests: signed narinfos with the
// NARs they describe. The same arguments make the same bytes, everywhere and
// always. The functions panic on arguments that make no package.
package nixtest

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"

	"github.com/stevedores-org/nix-cache/caddymodule/nix"
)

// NewKey returns the private key that belongs to a name, such as "test-1".
func NewKey(name string) nix.PrivateKey {
	seed := sha256.Sum256([]byte("key " + name))
	secret := ed25519.NewKeyFromSeed(seed[:])
	return must(nix.ParsePrivateKey(name + ":" + base64.StdEncoding.EncodeToString(secret)))
}

// Trust returns the public halves of the keys.
func Trust(keys ...nix.PrivateKey) nix.PublicKeys {
	public := make([]nix.PublicKey, len(keys))
	for i, k := range keys {
		public[i] = k.PublicKey()
	}
	return must(nix.NewPublicKeys(public...))
}

// StorePath returns the path of the packages of this name, such as "hello-1.0".
func StorePath(name string) nix.StorePath {
	sum := sha256.Sum256([]byte("store path " + name))
	return must(nix.ParseStorePathBase(nix.EncodeBase32(sum[:20]) + "-" + name))
}

// Package is a store path in a binary cache.
type Package struct {
	NARInfo *nix.NARInfo
	NAR     []byte // of one regular file
	File    []byte // what lies at NARInfo.NARPath: NAR, or what Compressed made of it
}

// Text returns the narinfo in its canonical rendering.
func (p Package) Text() []byte { return must(p.NARInfo.MarshalText()) }

// NewPackage returns a package whose NAR holds one file of size bytes that don't
// compress. Its store path follows from the name alone, so packages of one name
// and different sizes are divergent builds of one path.
func NewPackage(name string, size int, options ...Option) Package {
	s := NewStream(name, int64(size))
	p := Package{NARInfo: s.NARInfo, NAR: must(io.ReadAll(s.Reader()))}
	p.File = p.NAR
	for _, option := range options {
		option(&p)
	}
	return p
}

// Option changes a package. Options apply in the order they are given.
type Option func(*Package)

// References makes the package refer to these paths.
func References(paths ...nix.StorePath) Option {
	return func(p *Package) { p.NARInfo.References = append(p.NARInfo.References, paths...) }
}

// Filled adds references until the narinfo has room for just so many bytes more,
// of signatures for instance.
func Filled(room int) Option {
	return func(p *Package) {
		const least, most = 40, 240 // bytes of a reference with the space before it
		left := nix.MaxNARInfoSize - len(p.Text()) - room
		if len(p.NARInfo.References) == 0 {
			left++ // no space before the first
		}
		for i := 0; left > 0; i++ {
			size := min(left, most)
			if rest := left - size; rest > 0 && rest < least {
				size -= least
			}
			name := fmt.Sprintf("%0*d", size-len(" -")-32, i)
			p.NARInfo.References = append(p.NARInfo.References, StorePath(name))
			left -= size
		}
	}
}

// SignedBy adds the key's signature of the narinfo as the options before have
// made it.
func SignedBy(key nix.PrivateKey) Option {
	return func(p *Package) { p.NARInfo.Signatures = append(p.NARInfo.Signatures, key.Sign(p.NARInfo)) }
}

// Compressed makes the file what compress returns for the NAR.
func Compressed(c nix.Compression, compress func(nar []byte) []byte) Option {
	return func(p *Package) {
		p.File = compress(bytes.Clone(p.NAR))
		p.NARInfo.Compression = c
		p.NARInfo.FileHash = sha256.Sum256(p.File)
		p.NARInfo.FileSize = int64(len(p.File))
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic("nixtest: " + err.Error())
	}
	return v
}
