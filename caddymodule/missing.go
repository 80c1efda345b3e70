package caddymodule

import (
	"context"
	"errors"
	"io/fs"
	"net/http"
	"sync"
	"time"

	"github.com/stevedores-org/nix-cache/caddymodule/auth"
	"github.com/stevedores-org/nix-cache/caddymodule/cache"
	"github.com/stevedores-org/nix-cache/caddymodule/internal/bounded"
	"github.com/stevedores-org/nix-cache/caddymodule/nix"
)

// Files go from a bucket without this cache's doing: by a lifecycle rule, a script,
// another node. Who may upload mends that by pushing again, if they are told what is
// gone: so they are answered by what the origin has, where the tiers have it too. All
// others are served by the tiers.

// confirm returns an absence if a file is gone from the origin that the tiers have,
// to a client that may upload. A pull with such a token looks the same as a push, so
// a narinfo is asked about once in confirmedFor. An origin that does not answer
// changes nothing.
func (h *Handler) confirm(a *answer) error {
	var gone bool
	switch kind := a.path.Kind(); {
	case kind == nix.KindNARInfo && h.mayUpload(a.r):
		gone = h.isNARInfoGone(a)
	case kind == nix.KindNAR && a.r.Method == http.MethodHead && h.mayUpload(a.r):
		gone = h.isDamaged(a.path) || h.files.Keeps(a.path) && h.isGone(a.context(), a.path)
	}
	if gone {
		return &cache.AbsentError{Path: a.path.String(), Result: cache.Miss}
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
func (h *Handler) isGone(ctx context.Context, p nix.CachePath) bool {
	if h.isDamaged(p) {
		return true
	}
	_, err := h.receiver.Origin.Stat(ctx, p.String())
	return errors.Is(err, fs.ErrNotExist)
}

// isNARInfoGone asks the origin for a narinfo and its NAR at the same time: a client
// that finds a narinfo without its NAR would send neither again.
func (h *Handler) isNARInfoGone(a *answer) bool {
	if h.missing.confirmedLately(a.path) {
		return false
	}
	kept := h.files.Keeps(a.path)
	nar, ok := h.narOf(a)
	if !ok {
		return false // the answer says why
	}
	var (
		ctx                  = a.context()
		narinfoGone, narGone bool
		asking               sync.WaitGroup
	)
	if kept { // else the origin has just answered
		asking.Go(func() { narinfoGone = h.isGone(ctx, a.path) })
	}
	asking.Go(func() { narGone = h.isGone(ctx, nar) })
	asking.Wait()
	switch {
	case narinfoGone:
		return true
	case narGone:
		h.missing.promise(nar, a.path)
		h.noteMissing(nar)
		return true
	}
	h.missing.confirm(a.path)
	return false
}

// narOf returns the NAR of the narinfo that is asked for.
func (h *Handler) narOf(a *answer) (nix.CachePath, bool) {
	o, err := h.files.Open(a.context(), a.path, a.wanted())
	if err != nil {
		return nix.CachePath{}, false
	}
	defer o.Close()
	n, err := nix.ParseNARInfo(o.Bytes)
	if err != nil {
		return nix.CachePath{}, false
	}
	return n.NARPath(), true
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

const (
	// maxPromises bounds each of missingNARs' memories, 150 to 300 bytes an entry.
	// Clients ask for a NAR soon after its narinfo.
	maxPromises = 10_000

	// confirmedFor is how long it counts that the origin had a narinfo and its NAR.
	confirmedFor = 5 * time.Minute
)

// missingNARs has what is known of narinfos and the NARs that they promise, of those
// that were seen last.
type missingNARs struct {
	narinfos  *bounded.Map[nix.CachePath, nix.CachePath] // by NAR
	told      *bounded.Map[nix.CachePath, struct{}]      // NARs whose absence was logged
	confirmed *bounded.Map[nix.CachePath, time.Time]     // when the origin had a narinfo and its NAR
}

func newMissingNARs() *missingNARs {
	return &missingNARs{
		narinfos:  bounded.NewMap[nix.CachePath, nix.CachePath](maxPromises),
		told:      bounded.NewMap[nix.CachePath, struct{}](maxPromises),
		confirmed: bounded.NewMap[nix.CachePath, time.Time](maxPromises),
	}
}

func (m *missingNARs) promise(nar, narinfo nix.CachePath) { m.narinfos.Set(nar, narinfo) }

// find returns the narinfo that promises a NAR, zero if none is known, and whether
// it is asked for the first time.
func (m *missingNARs) find(nar nix.CachePath) (narinfo nix.CachePath, first bool) {
	narinfo, there := m.narinfos.Get(nar)
	if !there {
		return narinfo, false
	}
	_, told := m.told.Set(nar, struct{}{})
	return narinfo, !told
}

func (m *missingNARs) confirm(narinfo nix.CachePath) { m.confirmed.Set(narinfo, time.Now()) }

func (m *missingNARs) confirmedLately(narinfo nix.CachePath) bool {
	at, ok := m.confirmed.Get(narinfo)
	return ok && time.Since(at) < confirmedFor
}
