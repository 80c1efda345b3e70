package upload

import (
	"fmt"

	"github.com/stevedores-org/nix-cache/caddymodule/nix"
)

// Divergence says what an upload comes to whose store path is stored already,
// signed by a trusted key, with something else to it: another NAR hash, as after
// a build that is not reproducible, or other references. The first one stays in
// any case, since clients may have it.
type Divergence uint8

const (
	KeepFirst       Divergence = iota // it is taken for done: Kept
	RejectDivergent                   // it is refused: Divergent
)

// ParseDivergence reads "keep" or "reject".
func ParseDivergence(s string) (Divergence, error) {
	switch s {
	case "keep":
		return KeepFirst, nil
	case "reject":
		return RejectDivergent, nil
	default:
		return 0, fmt.Errorf("expected keep or reject, got %q", s)
	}
}

// diverged answers an upload of what is stored in another way.
func (r *Receiver) diverged(path nix.CachePath, present, n *nix.NARInfo) (Outcome, error) {
	if r.OnDivergence == RejectDivergent {
		return "", reject(Divergent, "%s is in this cache with %s, and stays; copy it from there, or have its narinfo deleted and push again",
			n.StorePath, difference(present, n))
	}
	r.Log.Warn("narinfo kept: an upload of the same store path has other content", "path", path.String(),
		"store_path", n.StorePath.String(), "kept_nar_hash", present.NARHash.String(), "refused_nar_hash", n.NARHash.String())
	return Kept, nil
}

// difference tells two narinfos of one store path apart.
func difference(present, n *nix.NARInfo) string {
	if present.NARHash == n.NARHash {
		return fmt.Sprintf("other references or another NarSize than in this upload, though NarHash is %s in both", n.NARHash)
	}
	return fmt.Sprintf("NarHash %s, not with the %s of this upload", present.NARHash, n.NARHash)
}
