package caddymodule

import (
	"context"
	"errors"
	"io/fs"
	"net/http"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

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
	case kind == nix.KindNARInfo && h.mayUpload(a):
		gone = h.isNARInfoGone(a)
	case kind == nix.KindNAR && a.r.Method == http.MethodHead && h.mayUpload(a):
		gone = h.isDamaged(a.path) || h.files.Keeps(a.path) && h.isGone(a.context(), a.path)
	}
	if gone {
		return &cache.AbsentError{Path: a.path.String(), Result: cache.Miss}
	}
	return nil
}

// mayUpload reports whether a read is by a token with that right.
func (h *Handler) mayUpload(a *answer) bool {
	if h.Private { // who it is was asked at the door
		return a.token.Rights.Has(auth.Upload)
	}
	return h.identifyReader(a.r).Rights.Has(auth.Upload)
}

// identifyReader returns the token of a read that anybody may make, none if it
// has no good one. A read is not delayed for a wrong token, so an address that has
// presented several is not told of one that is right.
func (h *Handler) identifyReader(r *http.Request) auth.Token {
	presented, err := auth.Presented(r)
	if err != nil || h.throttle.Suspects(clientAddr(r)) {
		return auth.Token{}
	}
	token, err := h.set.authorities.Identify(r.Context(), presented)
	if errors.Is(err, auth.ErrUnknownCredential) {
		h.throttle.Count(clientAddr(r))
		h.metrics.authFailure(authReason(err))
	}
	return token
}

// isGone asks the origin; see has.
func (h *Handler) isGone(ctx context.Context, p nix.CachePath) bool {
	has, err := h.has(ctx, p)
	return err == nil && !has
}

// has asks the origin for a file. The caches over it drop what is gone: see
// [cache.WriteThrough]. What is damaged is as good as gone.
func (h *Handler) has(ctx context.Context, p nix.CachePath) (bool, error) {
	if h.isDamaged(p) {
		return false, nil
	}
	_, err := h.receiver.Origin.Stat(ctx, p.String())
	if errors.Is(err, fs.ErrNotExist) {
		h.missing.doubt()
		return false, nil
	}
	return err == nil, err
}

// isNARInfoGone asks the origin for a narinfo and its NAR at the same time: a client
// that finds a narinfo without its NAR would send neither again.
func (h *Handler) isNARInfoGone(a *answer) bool {
	if nar, ok := h.missing.confirmedLately(a.path); ok {
		return h.isDamaged(nar)
	}
	doubts := h.missing.doubts.Load()
	kept := h.files.Keeps(a.path)
	nar, ok := h.narOf(a)
	if !ok {
		return false // the answer says why
	}
	there, err := h.hasBoth(a.context(), a.path, nar, kept)
	switch {
	case err != nil:
		return false // nothing better is known than what the tiers have
	case there.narinfo && there.nar:
		h.missing.promise(nar, a.path)
		h.missing.confirm(a.path, confirmation{nar: nar, at: time.Now(), doubts: doubts})
		return false
	case there.narinfo:
		h.missing.promise(nar, a.path)
		h.noteMissing(nar)
	}
	return true
}

// presence says which of a narinfo and its NAR the origin has.
type presence struct{ narinfo, nar bool }

// hasBoth asks for a narinfo, unless the origin has just answered with it, and its
// NAR.
func (h *Handler) hasBoth(ctx context.Context, narinfo, nar nix.CachePath, kept bool) (presence, error) {
	there := presence{narinfo: !kept}
	asking, ctx := errgroup.WithContext(ctx)
	if kept {
		asking.Go(func() (err error) {
			there.narinfo, err = h.has(ctx, narinfo)
			return err
		})
	}
	asking.Go(func() (err error) {
		there.nar, err = h.has(ctx, nar)
		return err
	})
	err := asking.Wait()
	return there, err
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
	h.missing.doubt()
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
	confirmed *bounded.Map[nix.CachePath, confirmation]  // by narinfo
	doubts    atomic.Uint64                              // how often a file was found gone, or removed
}

// confirmation says that the origin had a narinfo and its NAR. It counts for
// confirmedFor, and until the next doubt.
type confirmation struct {
	nar    nix.CachePath
	at     time.Time
	doubts uint64 // before the origin was asked
}

func newMissingNARs() *missingNARs {
	return &missingNARs{
		narinfos:  bounded.NewMap[nix.CachePath, nix.CachePath](maxPromises),
		told:      bounded.NewMap[nix.CachePath, struct{}](maxPromises),
		confirmed: bounded.NewMap[nix.CachePath, confirmation](maxPromises),
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

// doubt ends all confirmations: where one file is gone, others may be.
func (m *missingNARs) doubt() { m.doubts.Add(1) }

// doubtPromised is doubt if a narinfo promises the file, which is not there. Others
// are nothing unusual, and anybody can ask for them.
func (m *missingNARs) doubtPromised(nar nix.CachePath) {
	if _, promised := m.narinfos.Get(nar); promised {
		m.doubt()
	}
}

func (m *missingNARs) confirm(narinfo nix.CachePath, c confirmation) { m.confirmed.Set(narinfo, c) }

// confirmedLately returns the NAR of a narinfo if both were there a moment ago.
func (m *missingNARs) confirmedLately(narinfo nix.CachePath) (nar nix.CachePath, ok bool) {
	c, ok := m.confirmed.Get(narinfo)
	return c.nar, ok && time.Since(c.at) < confirmedFor && c.doubts == m.doubts.Load()
}
