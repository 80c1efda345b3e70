package upload

import (
	"context"
	"errors"
	"io/fs"
	"slices"

	"github.com/stevedores-org/nix-cache/caddymodule/nix"
	"github.com/stevedores-org/nix-cache/caddymodule/origin"
)

const narinfoContentType = "text/x-nix-narinfo"

// maxRaces is how often a narinfo is tried again when another writer comes
// between reading and writing it.
const maxRaces = 4

func (r *Receiver) receiveNARInfo(ctx context.Context, path nix.CachePath, body Body) (Outcome, error) {
	n, err := r.admit(path, body)
	if err != nil {
		return "", err
	}
	if err := r.requireNAR(ctx, n); err != nil {
		return "", err
	}
	if err := r.requireReferences(ctx, n); err != nil {
		return "", err
	}
	if err := r.requireContent(ctx, n, body.From); err != nil {
		return "", err
	}
	if err := r.sign(n); err != nil {
		return "", err
	}
	outcome, err := Stored, r.writeNARInfo(ctx, n, origin.CreateOptions{IfAbsent: true})
	for races := 0; errors.Is(err, fs.ErrExist) || errors.Is(err, origin.ErrChanged); races++ {
		if races == maxRaces {
			err = &origin.UnavailableError{Op: "create", Path: path.String(), Err: errors.New("other writers kept coming between")}
			break
		}
		outcome, err = r.mergeNARInfo(ctx, path, n, body.From)
	}
	if err != nil {
		return "", err
	}
	return outcome, nil
}

// admit is the gate: what it lets through is signed by a trusted key, if there
// are any, and can't be read in two ways.
func (r *Receiver) admit(path nix.CachePath, body Body) (*nix.NARInfo, error) {
	text, err := readDecoded(body, nix.MaxNARInfoSize)
	if err != nil {
		return nil, err
	}
	n, err := nix.ParseNARInfo(text)
	if err != nil {
		return nil, reject(Malformed, "%v", err)
	}
	if nix.NARInfoPath(n.StorePath) != path {
		return nil, reject(Malformed, "the narinfo is of %s, which belongs at %s", n.StorePath, nix.NARInfoPath(n.StorePath))
	}
	if err := r.verify(n); err != nil {
		return nil, err
	}
	if err := r.Compressions.require(n.Compression); err != nil {
		return nil, err
	}
	return n, requireFileSize(n)
}

func (r *Receiver) verify(n *nix.NARInfo) error {
	if r.TrustedKeys.Len() == 0 {
		return nil
	}
	if _, err := r.TrustedKeys.Verify(n); err != nil {
		return reject(Untrusted, "%v", err)
	}
	return nil
}

// sign puts our signatures into a narinfo that has passed.
func (r *Receiver) sign(n *nix.NARInfo) error {
	if !n.SignWith(r.SignWith, r.TrustedKeys) {
		return nil
	}
	if _, err := n.MarshalText(); err != nil {
		return reject(TooLarge, "with the signature that this cache adds: %v", err)
	}
	return nil
}

// requireNAR checks that the narinfo's NAR is in place: its bytes were checked
// when it was uploaded.
func (r *Receiver) requireNAR(ctx context.Context, n *nix.NARInfo) error {
	info, err := r.Origin.Stat(ctx, n.URL())
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return narMissing(n)
	case err != nil:
		return err
	case info.Size != n.FileSize:
		return reject(Mismatch, "FileSize is %d, but %s has %d bytes", n.FileSize, n.URL(), info.Size)
	}
	return nil
}

// requireUsable checks a narinfo that is there: what it tells of its NAR is not
// signed, so that whoever came first may have attached one that clients can't read.
func (r *Receiver) requireUsable(ctx context.Context, present *nix.NARInfo, from string) error {
	if err := r.requireNAR(ctx, present); err != nil {
		return err
	}
	if err := requireFileSize(present); err != nil {
		return err
	}
	return r.requireContent(ctx, present, from)
}

func narMissing(n *nix.NARInfo) error {
	return reject(NARMissing, "%s is not in this cache; upload the NAR before its narinfo", n.URL())
}

func (r *Receiver) writeNARInfo(ctx context.Context, n *nix.NARInfo, opts origin.CreateOptions) error {
	return WriteNARInfo(ctx, r.Origin, n, opts)
}

// mergeNARInfo brings n together with the narinfo that is there: the one there
// stays, and gains n's signatures. Where both say different things of one store
// path, as after a build that is not reproducible, the one there stays as it is.
func (r *Receiver) mergeNARInfo(ctx context.Context, path nix.CachePath, n *nix.NARInfo, from string) (Outcome, error) {
	present, version, err := r.readNARInfo(ctx, path)
	if errors.Is(err, fs.ErrNotExist) {
		return Stored, r.writeNARInfo(ctx, n, origin.CreateOptions{IfAbsent: true})
	}
	if err != nil {
		return "", err
	}
	divergent := present != nil && !present.SameSignedFields(n)
	if present == nil || divergent && !r.trusts(present) {
		// It came past this gate, and is of no use to clients.
		r.Log.Warn("narinfo at the origin replaced, since it was malformed or not signed by a trusted key", "path", path.String())
		return Stored, r.writeNARInfo(ctx, n, origin.CreateOptions{IfMatch: version})
	}
	if divergent {
		return r.diverged(path, present, n)
	}
	merged, err := r.merged(ctx, present, n, from)
	if err != nil || merged == nil {
		return Unchanged, err
	}
	return Stored, r.writeNARInfo(ctx, merged, origin.CreateOptions{IfMatch: version})
}

// merged returns what should be at the path in place of present; nil if that
// is present itself.
func (r *Receiver) merged(ctx context.Context, present, n *nix.NARInfo, from string) (*nix.NARInfo, error) {
	m := *present
	if present.URL() != n.URL() {
		err := r.requireUsable(ctx, present, from)
		if _, useless := errors.AsType[*RejectedError](err); useless {
			r.Log.Warn("narinfo at the origin replaced, since its NAR is of no use", "path", nix.NARInfoPath(n.StorePath).String(), "error", err)
			m = *n
		} else if err != nil {
			return nil, err
		}
	}
	m.Signatures = r.mergedSignatures(present, n)
	if _, err := m.MarshalText(); err != nil {
		r.Log.Warn("signatures not added to a narinfo, which has no room for them", "path", nix.NARInfoPath(n.StorePath).String(), "error", err)
		return nil, nil
	}
	if sameText(&m, present) {
		return nil, nil
	}
	return &m, nil
}

// mergedSignatures returns present's signatures and n's, which are of the same
// fingerprint, as far as there is room: see [nix.NARInfo.SignWith], which adds
// ours. Of n's it takes those that somebody vouches for: whoever may upload could
// otherwise fill a narinfo that others have stored. Wrong ones under a trusted
// name, which can only have come past this gate, don't stay.
func (r *Receiver) mergedSignatures(present, n *nix.NARInfo) []nix.Signature {
	both := *present
	both.Signatures = slices.DeleteFunc(slices.Clone(present.Signatures), func(s nix.Signature) bool {
		return r.underTrustedName(s) && !r.trusts(withSignature(present, s))
	})
	for _, s := range n.Signatures {
		if r.TrustedKeys.Len() == 0 || r.underTrustedName(s) {
			both.Signatures = append(both.Signatures, s)
		}
	}
	both.SignWith(r.SignWith, r.TrustedKeys)
	return both.Signatures
}

// underTrustedName reports whether a signature claims to be by a trusted key: one
// of an upload that has passed the gate is.
func (r *Receiver) underTrustedName(s nix.Signature) bool {
	_, ok := r.TrustedKeys.ByName(s.KeyName)
	return ok
}

// withSignature returns n with that signature alone.
func withSignature(n *nix.NARInfo, s nix.Signature) *nix.NARInfo {
	alone := *n
	alone.Signatures = []nix.Signature{s}
	return &alone
}

// trusts reports whether a narinfo is signed as an upload must be.
func (r *Receiver) trusts(n *nix.NARInfo) bool { return r.verify(n) == nil }

func sameText(a, b *nix.NARInfo) bool {
	x, errA := a.MarshalText()
	y, errB := b.MarshalText()
	return errA == nil && errB == nil && string(x) == string(y)
}

// readNARInfo reads the narinfo at path and its version; a nil NARInfo if what
// is there is none.
func (r *Receiver) readNARInfo(ctx context.Context, path nix.CachePath) (*nix.NARInfo, string, error) {
	n, version, err := ReadNARInfo(ctx, r.Origin, path)
	if _, malformed := errors.AsType[*MalformedError](err); malformed {
		return nil, version, nil
	}
	return n, version, err
}
