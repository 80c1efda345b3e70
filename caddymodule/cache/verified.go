package cache

import (
	"fmt"

	"github.com/stevedores-org/nix-cache/caddymodule/nix"
)

// Verification is what small files are held to before they are served.
type Verification struct {
	// Check refuses a file by its error. nil: all are served as they are.
	Check func(p nix.CachePath, body []byte) error

	// Name tells one Check from another: what is in memory and was accepted by
	// one of the same name is not checked again.
	Name string
}

// accepted returns the file, marked as accepted by this namespace's Check, or the
// error by which that refuses it. A file in the tiers may have come there under
// another config, which trusted other keys or checked nothing.
func (n *Namespace) accepted(p nix.CachePath, s *small) (*small, error) {
	v := &n.policy.Verify
	if v.Check == nil || s.acceptedBy == v.Name {
		return s, nil
	}
	if err := v.Check(p, s.body); err != nil {
		return nil, err
	}
	return &small{body: s.body, tag: s.tag, acceptedBy: v.Name}, nil
}

// refused is the error for a small file that a flight has brought and this
// namespace's Check refuses: one that has none may have begun the flight.
func (n *Namespace) refused(p nix.CachePath, f *flight) error {
	if f.small == nil {
		return nil
	}
	if _, err := n.accepted(p, f.small); err != nil {
		return n.refusal(p, err)
	}
	return nil
}

func (n *Namespace) refusal(p nix.CachePath, err error) error {
	n.counters.mismatched.Add(1)
	return &DamagedError{p.String(), fmt.Sprintf("origin's copy is refused: %v", err)}
}

// fromMemory returns a small file that is in memory and may be served; nil if
// there is none. One that is refused is dropped, there and on disk: what the
// origin has decides.
func (n *Namespace) fromMemory(p nix.CachePath, key string) *small {
	forgets := n.cache.forgets.Load()
	s, ok := n.cache.memory.get(key)
	if !ok {
		return nil
	}
	accepted, err := n.accepted(p, s)
	switch {
	case err != nil:
		n.dropRefused(p, key, err)
		return nil
	case accepted != s:
		n.cache.promote(key, accepted, forgets)
	}
	return accepted
}

func (n *Namespace) dropRefused(p nix.CachePath, key string, err error) {
	n.log.Warn("dropped from the cache: it was stored when it was not verified, or other keys were trusted", "path", p.String(), "error", err)
	n.cache.memory.forget(key)
	if tier := n.cache.disk.Load(); tier != nil && !n.local() {
		tier.Remove(key)
	}
}
