// Package caddymodule is a Caddy HTTP handler that serves a Nix binary cache
// from memory and disk, in front of an R2 bucket or a local directory.
//
// A request goes through ServeHTTP in serve.go to get.go or put.go, and from
// there to the packages below: cache for what is read, upload for what is
// written, both over an origin. What Caddy sees is in this package only.
package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/stevedores-org/nix-cache/caddymodule/auth"
	"github.com/stevedores-org/nix-cache/caddymodule/auth/oidc"
	"github.com/stevedores-org/nix-cache/caddymodule/cache"
	"github.com/stevedores-org/nix-cache/caddymodule/origin"
	"github.com/stevedores-org/nix-cache/caddymodule/upload"
)

func init() {
	caddy.RegisterModule(Handler{})
}

// Handler serves a Nix binary cache: narinfos and NARs, from memory and disk
// where they are there, else from the origin. With an upload token it also
// takes in what `nix copy --to` pushes, after checking it.
//
// Every value may hold placeholders such as {env.UPLOAD_TOKEN} or
// {file./run/secrets/token}, which are resolved when the config is loaded.
// Sizes are written as in 512MiB or 10GB, durations as in 30s or 1d.
type Handler struct {
	// The cache's name in /health, logs and metrics. Default: nix-cache.
	Name Value `json:"name,omitempty"`

	// Where the files live for good. Default: the directory
	// nix-cache/objects in Caddy's data directory.
	Origin *OriginConfig `json:"origin,omitempty"`

	// How much memory the narinfos may take up. 0 turns the tier off.
	// Default: 256MiB.
	Memory Value `json:"memory,omitempty"`

	// The tier on disk. It is for remote origins: the files of a directory
	// origin are served as they are.
	Disk *DiskConfig `json:"disk,omitempty"`

	// How long to remember that the origin lacks a file. 0 turns it off.
	// Default: 30s.
	NegativeTTL Value `json:"negative_ttl,omitempty"`

	// The secret of a token named "upload" with the right to upload. Unset or
	// empty, it lets nobody in.
	UploadToken Value `json:"upload_token,omitempty"`

	// Further tokens, each with a name and rights of its own.
	Tokens []TokenConfig `json:"token,omitempty"`

	// A file of further tokens, each on a line as its name, its secret and its
	// rights. It is read again when it changes. Default: none.
	TokenFile Value `json:"token_file,omitempty"`

	// Files are served only to who has the right to read. Default: to everybody.
	Private bool `json:"private,omitempty"`

	// Jobs of a CI that are let in without a secret. Default: none.
	OIDC []OIDCConfig `json:"oidc,omitempty"`

	// Keys, as name:base64, of which one must have signed each narinfo that is
	// uploaded. A value may hold several, separated by spaces. Default: none,
	// and signatures are not checked.
	TrustedPublicKeys []Value `json:"trusted_public_key,omitempty"`

	// Files with secret keys, in the format of `nix key generate-secret`. Each
	// narinfo that is uploaded and passes every check is signed with all of
	// them before it is stored. Default: none.
	SignWith []Value `json:"sign_with,omitempty"`

	// What becomes of a narinfo that is uploaded for a store path that is stored
	// already, signed by a trusted key, with another NAR hash or other
	// references. The stored one stays: keep answers as if the upload had been
	// stored, and logs a warning; reject answers with 409. Default: keep.
	OnDivergence Value `json:"on_divergence,omitempty"`

	// Whether a narinfo is taken only if the narinfos of all its references are
	// there: off, since they may be in another cache, or same_cache, which
	// answers with 409 where one is missing. Default: off.
	RequireReferences Value `json:"require_references,omitempty"`

	// What is answered for a narinfo that can't be looked up, since the origin
	// does not answer: error, or absent, which lets a build go on without the
	// cache. Clients remember an absence for an hour. Default: error.
	OutageAnswers Value `json:"outage_answers,omitempty"`

	// The compressions that NARs may be uploaded in, by the names that narinfos
	// have for them: none, xz, zstd, bzip2, gzip, br, lzip and lz4. What is stored
	// is served however it is compressed. Default: none, xz, zstd, bzip2, gzip, br.
	AcceptCompression []Value `json:"accept_compression,omitempty"`

	// Refuse narinfos from the origin, too, that no trusted key signed or that
	// are malformed: with 502, since somebody wrote past this cache.
	// Default: what the origin has is served.
	VerifyReads bool `json:"verify_reads,omitempty"`

	// The Priority in /nix-cache-info: clients ask the cache with the lowest
	// first. Default: 40.
	Priority Value `json:"priority,omitempty"`

	// How long clients and proxies may keep a narinfo. Default: 1y.
	NARInfoMaxAge Value `json:"narinfo_max_age,omitempty"`

	// The largest NAR that can be uploaded. Default: 4.995GiB, the most that
	// R2 takes in one request, and so what other programs can bring there.
	MaxUploadSize Value `json:"max_upload_size,omitempty"`

	// Hand requests for paths that a binary cache does not have to the next
	// handler. Default: they are answered with 404.
	PassThru bool `json:"pass_thru,omitempty"`

	// Where these settings stand in a Caddyfile, as file and line, for errors
	// that show only when the config is loaded. The Caddyfile adapter sets it;
	// a JSON config needs none.
	Source Source `json:"source,omitempty"`

	set      settings
	origin   origin.Origin
	pooled   *pooledCache
	issuers  map[string]*oidc.Issuer // by URL
	files    *cache.Namespace
	receiver *upload.Receiver
	missing  *missingNARs
	metrics  *handlerMetrics
	log      *slog.Logger
	quiet    *quietLog // of files

	narinfoControl string // Cache-Control
	statuses       cacheStatuses
	serving        context.Context // ends when the server begins to shut down
	throttle       *auth.Throttle
	ready          *readiness
	failures       *failureLog
	refused        *refusals
}

// CaddyModule returns the Caddy module information.
func (Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.nix_cache",
		New: func() caddy.Module { return new(Handler) },
	}
}

// Provision sets the handler up. It writes nothing, takes no lock and reaches no
// network, since `caddy validate` calls it too: that is for the app's Start. It
// reads the files with tokens and keys that the config names.
func (h *Handler) Provision(ctx caddy.Context) error {
	h.log = ctx.Slogger()
	if err := h.provision(ctx); err != nil {
		return fmt.Errorf("nix_cache: %w", err)
	}
	return nil
}

func (h *Handler) provision(ctx caddy.Context) (err error) {
	if h.set, err = h.resolve(caddy.NewReplacer()); err != nil {
		return err
	}
	h.narinfoControl = narinfoControl(h.scope(), h.set.narinfoMaxAge)
	h.statuses = newCacheStatuses(h.set.name)
	h.serving, h.throttle = untilShutdown(ctx), throttle
	if h.metrics, err = metricsFor(ctx, h.set.name); err != nil {
		return err
	}
	h.log = h.log.With("cache", h.set.name)
	h.failures, h.refused = &failureLog{log: h.log}, new(refusals)
	h.quiet = newQuietLog(h.log.Handler())
	h.set.origin.r2.SpoolDir = h.set.spoolDir()
	if h.set.diskPath != "" {
		h.set.origin.r2.SpoolRoom = h.reserve
	}
	if h.origin, err = h.set.origin.open(h.log, h.metrics.observeOrigin); err != nil {
		return h.Source.locate("origin", err)
	}
	h.ready = newReadiness(unqueued(h.origin), h.log, h.metrics.originUp)
	h.missing = newMissingNARs()
	h.receiver = &upload.Receiver{
		Origin:            cache.WriteThrough(h.origin, h.parts),
		Damaged:           h.isDamaged,
		TrustedKeys:       h.set.trustedKeys,
		SignWith:          h.set.signWith,
		OnDivergence:      h.set.onDivergence,
		RequireReferences: h.set.references,
		Compressions:      h.set.compressions,
		MaxSize:           h.set.maxUploadSize,
		Log:               h.log,
	}
	h.takeIssuers()
	h.warn()
	return h.joinPool(ctx)
}

// warn says what an operator should know of a config that is valid.
func (h *Handler) warn() {
	h.warnOfSigning()
	if h.set.authorities.Any(auth.Upload) && h.set.trustedKeys.Len() == 0 {
		h.log.Warn("uploads are on, but no trusted_public_key is set: whoever has an upload token can publish packages that nobody signed")
	}
	if h.Private && !h.set.authorities.Any(auth.Read) {
		h.log.Warn("the cache is private, but no token has the right read: nobody can read it")
	}
}

// joinPool takes the cache that an earlier config left, or makes one, and has
// it started with this config.
func (h *Handler) joinPool(ctx caddy.Context) error {
	app, err := ctx.App(appID)
	if err != nil {
		return err
	}
	h.pooled = takeCache(h.cacheKey(), h.set)
	policy := cache.Policy{
		NegativeTTL: h.set.negativeTTL,
		PartSize:    h.set.origin.partSize(),
		Parallel:    h.set.origin.parallel,
		Waiting:     h.waiting,
	}
	if h.VerifyReads {
		policy.Verify = cache.Verification{Check: h.verifyRead, Name: h.set.trustedKeys.String()}
	}
	h.files = h.pooled.cache.Namespace(h.origin.String(), h.origin, policy, h.metrics.fills, slog.New(h.quiet))
	running.add(h)
	if bucket, ok := bucketOf(h.origin); ok && h.set.authorities.Any(auth.Upload) {
		app.(*App).clean(h.pooled, bucket)
	}
	return h.Source.locate("disk", app.(*App).use(h))
}

// Cleanup gives up what Provision took. Requests under way go on.
func (h *Handler) Cleanup() error {
	if h.ready != nil {
		h.ready.end()
		h.failures.end()
		h.quiet.end()
	}
	err := h.giveBackIssuers()
	if h.pooled == nil {
		return err
	}
	running.remove(h)
	return errors.Join(err, h.pooled.giveBack())
}

var (
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddy.CleanerUpper          = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
)
