// Package nix holds the formats of a Nix binary cache: the paths below its URL,
// the narinfo with its fingerprint and signatures, and the hashes, store paths
// and content addresses a narinfo is made of.
//
// Its parsers are gates: they take one spelling of each value, the one Nix
// itself writes, so that what was checked here is what every client will read,
// however lenient its own parser is. All types but [NARInfo] and [Signature],
// which are open to be put together, are right once they exist.
//
// The package deliberately does no I/O, reads no NAR and knows nothing of
// configuration, HTTP or the store a path may lie in.
//
// Nix's own sources are the reference, there being no specification. Comments
// cite them by file, relative to src/ in https://github.com/NixOS/nix.
package nix
