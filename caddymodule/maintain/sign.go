package maintain

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"

	"github.com/stevedores-org/nix-cache/caddymodule/nix"
	"github.com/stevedores-org/nix-cache/caddymodule/origin"
	"github.com/stevedores-org/nix-cache/caddymodule/upload"
)

// Outcome says what the signing of a narinfo came to.
type Outcome string

const (
	Signed  Outcome = "signed"
	Present Outcome = "present" // it had all the signatures
	Refused Outcome = "refused" // it can't be signed, or should not be
	Gone    Outcome = "gone"    // it was deleted in the meantime
)

// Signing is what came of one narinfo.
type Signing struct {
	Path    nix.CachePath
	Outcome Outcome
	Reason  string // of Refused, one line
}

// Signer adds signatures to the narinfos of an origin.
type Signer struct {
	Origin origin.Origin

	// Keys are those to sign with.
	Keys []nix.PrivateKey

	// Trusted are the keys of which one must have signed a narinfo. If there
	// are none, each that is well-formed is signed.
	Trusted nix.PublicKeys

	// Parallel is how many narinfos are read and written at a time, at least 1.
	Parallel int
}

// maxRaces is how often a narinfo is tried again when another writer comes
// between reading and writing it.
const maxRaces = 10

// All signs the narinfos whose path comes after a path, "" being before all, and
// yields what came of each, in the order of their paths: whoever stops can go on
// after the last that came. An error, the context's among them, ends it; those
// that were under way then may be signed or not.
func (s *Signer) All(ctx context.Context, after string) iter.Seq2[Signing, error] {
	paths := func(ctx context.Context) iter.Seq2[nix.CachePath, error] {
		return narinfosAfter(ctx, s.Origin, after)
	}
	return inOrder(ctx, s.Parallel, paths, s.sign)
}

func (s *Signer) sign(ctx context.Context, path nix.CachePath) (result Signing, err error) {
	for range maxRaces {
		err = retry(ctx, func() (err error) {
			result, err = s.signOnce(ctx, path)
			return err
		})
		if !errors.Is(err, origin.ErrChanged) {
			break
		}
	}
	switch {
	case errors.Is(err, origin.ErrChanged):
		return Signing{path, Refused, "other writers kept coming between; sign again"}, nil
	case err != nil:
		return Signing{}, fmt.Errorf("sign %s: %w", path, err)
	}
	return result, nil
}

func (s *Signer) signOnce(ctx context.Context, path nix.CachePath) (Signing, error) {
	n, version, err := upload.ReadNARInfo(ctx, s.Origin, path)
	if malformed, ok := errors.AsType[*upload.MalformedError](err); ok {
		return Signing{path, Refused, malformed.Err.Error()}, nil
	}
	if errors.Is(err, fs.ErrNotExist) {
		return Signing{path, Gone, ""}, nil
	}
	if err != nil {
		return Signing{}, err
	}
	if s.Trusted.Len() > 0 {
		if _, err := s.Trusted.Verify(n); err != nil {
			return Signing{path, Refused, err.Error()}, nil
		}
	}
	if !n.SignWith(s.Keys, s.Trusted) {
		return Signing{path, Present, ""}, nil
	}
	if _, err := n.MarshalText(); err != nil {
		return Signing{path, Refused, err.Error()}, nil
	}
	return Signing{path, Signed, ""}, upload.WriteNARInfo(ctx, s.Origin, n, origin.CreateOptions{IfMatch: version})
}
