package caddymodule

import (
	"errors"
	"io/fs"
	"net/http"
	"sync"

	"github.com/stevedores-org/nix-cache/caddymodule/auth"
	"github.com/stevedores-org/nix-cache/caddymodule/cache"
	"github.com/stevedores-org/nix-cache/caddymodule/nix"
)

// Files go from a bucket without this cache's doing: by a lifecycle rule, a script,
// another node. Who may upload mends that by pushing again, if they are told what is
// gone: so they are answered by what the origin has, where the tiers have it too. All
// others are served by the tiers.

// confirm returns an absence if the file is gone from the origin, for who is about
// to upload. An origin that does not answer changes nothing.
func (h *Handler) confirm(a *answer) error {
	kind := a.path.Kind()
	if kind != nix.KindNARInfo && (kind != nix.KindNAR || a.r.Method != http.MethodHead) || !h.mayUpload(a.r) {
		return nil
	}
	if h.damaged(a.path) || h.files.Keeps(a.path) && h.isGone(a, a.path) {
		return &cache.AbsentError{Path: a.path.String(), Result: cache.Miss}
	}
	if kind == nix.KindNARInfo && a.r.Method == http.MethodGet {
		return h.confirmNAR(a)
	}
	return nil
}

// mayUpload reports whether a read is by a token with that right. Who it is has
// been looked at already where the cache is private.
func (h *Handler) mayUpload(r *http.Request) bool {
	presented, err := auth.Presented(r)
	if err != nil {
		return false
	}
	token, err := h.set.authorities.Identify(r.Context(), presented)
	return err == nil && token.Rights.Has(auth.Upload)
}

// isGone asks the origin. The caches over it drop what is gone: see
// [cache.WriteThrough]. What is damaged is as good as gone.
func (h *Handler) isGone(a *answer, p nix.CachePath) bool {
	if h.damaged(p) {
		return true
	}
	_, err := h.receiver.Origin.Stat(a.context(), p.String())
	return errors.Is(err, fs.ErrNotExist)
}

// confirmNAR takes a narinfo whose NAR is gone for absent: clients that find it
// send neither again.
func (h *Handler) confirmNAR(a *answer) error {
	o, err := h.files.Open(a.context(), a.path, a.wanted())
	if err != nil {
		return nil // it is told by who asks next
	}
	defer o.Close()
	n, err := nix.ParseNARInfo(o.Bytes)
	if err != nil || !h.isGone(a, n.NARPath()) {
		return nil
	}
	h.missing.promise(n.NARPath(), a.path)
	h.noteMissing(n.NARPath())
	return &cache.AbsentError{Path: a.path.String(), Result: cache.Miss}
}

// noteNARInfo remembers which NAR a narinfo that is served promises. One from
// memory came there by another look-up.
func (h *Handler) noteNARInfo(p nix.CachePath, o *cache.Object) {
	if p.Kind() != nix.KindNARInfo || o.Result == cache.Memory {
		return
	}
	if n, err := nix.ParseNARInfo(o.Bytes); err == nil {
		h.missing.promise(n.NARPath(), p)
	}
}

// noteMissing counts and logs a NAR that is not there, if a narinfo promises it.
func (h *Handler) noteMissing(nar nix.CachePath) {
	narinfo, first := h.missing.find(nar)
	if narinfo.IsZero() {
		return
	}
	h.metrics.narMissing()
	if first {
		h.log.Error("a NAR is missing whose narinfo is there: push the package again, or delete the narinfo",
			"path", nar.String(), "narinfo", narinfo.String())
	}
}

// maxPromises bounds the memory of missingNARs, about 300 bytes each. Clients ask for
// a NAR soon after its narinfo.
const maxPromises = 10_000

// missingNARs has the NARs that narinfos promise, of the narinfos that were seen
// last, and which of the NARs have been told of as missing. Its zero value is ready
// for use.
type missingNARs struct {
	mu struct {
		sync.Mutex
		narinfos map[nix.CachePath]nix.CachePath // by NAR
		order    []nix.CachePath                 // NARs, oldest first
		told     map[nix.CachePath]bool
	}
}

func (m *missingNARs) promise(nar, narinfo nix.CachePath) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.mu.narinfos == nil {
		m.mu.narinfos = make(map[nix.CachePath]nix.CachePath)
		m.mu.told = make(map[nix.CachePath]bool)
	}
	if _, there := m.mu.narinfos[nar]; !there {
		m.mu.order = append(m.mu.order, nar)
	}
	m.mu.narinfos[nar] = narinfo
	if len(m.mu.order) > maxPromises {
		delete(m.mu.narinfos, m.mu.order[0])
		delete(m.mu.told, m.mu.order[0])
		m.mu.order = m.mu.order[1:]
	}
}

// find returns the narinfo that promises a NAR, zero if none is known, and whether
// it is asked for the first time.
func (m *missingNARs) find(nar nix.CachePath) (narinfo nix.CachePath, first bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	narinfo, there := m.mu.narinfos[nar]
	if !there || m.mu.told[nar] {
		return narinfo, false
	}
	m.mu.told[nar] = true
	return narinfo, true
}
