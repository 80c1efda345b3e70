package nixtest

import (
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"

	"github.com/stevedores-org/nix-cache/caddymodule/nix"
)

// ContentAddressed gives the package the store path that follows from its
// content, by "text:sha256", "fixed:r:sha256" or "fixed:md5", and from the
// references that the options before have made. Where the digest is not the NAR's,
// it is made up.
func ContentAddressed(method string) Option {
	return func(p *Package) {
		n := p.NARInfo
		digest := n.NARHash[:]
		switch method {
		case "text:sha256":
			sum := sha256.Sum256(p.NAR[8:])
			digest = sum[:]
		case "fixed:md5":
			sum := md5.Sum(p.NAR)
			digest = sum[:]
		}
		n.CA = must(nix.ParseContentAddress(method + ":" + nix.EncodeBase32(digest)))
		n.StorePath = addressed(method, digest, n.References, n.StorePath.Name())
	}
}

// addressed is makeFixedOutputPath and makeTextPath in
// libstore/store-dir-config.cc, for references to other paths.
func addressed(method string, digest []byte, references []nix.StorePath, name string) nix.StorePath {
	paths := make([]string, len(references))
	for i, r := range references {
		paths[i] = ":" + r.String()
	}
	slices.Sort(paths)
	kind, typed := "text", "sha256:"+hex.EncodeToString(digest)
	switch method {
	case "fixed:r:sha256":
		kind = "source"
	case "fixed:md5":
		inner := sha256.Sum256([]byte("fixed:out:md5:" + hex.EncodeToString(digest) + ":"))
		kind, typed = "output:out", "sha256:"+hex.EncodeToString(inner[:])
	}
	sum := sha256.Sum256([]byte(kind + strings.Join(paths, "") + ":" + typed + ":" + nix.StoreDir + ":" + name))
	var folded [20]byte
	for i, b := range sum {
		folded[i%len(folded)] ^= b
	}
	return must(nix.ParseStorePathBase(nix.EncodeBase32(folded[:]) + "-" + name))
}
