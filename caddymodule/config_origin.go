package caddymodule

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"

	"github.com/stevedores-org/nix-cache/caddymodule/nix"
	"github.com/stevedores-org/nix-cache/caddymodule/origin"
	"github.com/stevedores-org/nix-cache/caddymodule/origin/dir"
	"github.com/stevedores-org/nix-cache/caddymodule/origin/guard"
	"github.com/stevedores-org/nix-cache/caddymodule/origin/limit"
	"github.com/stevedores-org/nix-cache/caddymodule/origin/r2"
)

// OriginConfig is where the files live for good: one of the two.
type OriginConfig struct {
	// A directory, in the layout of `nix copy --to file://…`.
	Dir *DirConfig `json:"dir,omitempty"`

	// A bucket in Cloudflare R2.
	R2 *R2Config `json:"r2,omitempty"`
}

// DirConfig is a directory as the origin.
type DirConfig struct {
	// The directory; it is made when the first file is uploaded.
	// Default: nix-cache/objects in Caddy's data directory.
	Path Value `json:"path,omitempty"`
}

// R2Config is a bucket in Cloudflare R2 as the origin.
type R2Config struct {
	// The bucket's name. Required.
	Bucket Value `json:"bucket,omitempty"`

	// The account that has the bucket. Required unless an endpoint is given.
	AccountID Value `json:"account_id,omitempty"`

	// The bucket's jurisdiction, if it has one: eu or fedramp.
	Jurisdiction Value `json:"jurisdiction,omitempty"`

	// The URL of the S3 API, in place of account and jurisdiction.
	Endpoint Value `json:"endpoint,omitempty"`

	// The S3 credentials of an R2 API token. Required. The session token is
	// for temporary ones.
	AccessKeyID     Value `json:"access_key_id,omitempty"`
	SecretAccessKey Value `json:"secret_access_key,omitempty"`
	SessionToken    Value `json:"session_token,omitempty"`

	// The region that requests are signed for. Default: auto.
	Region Value `json:"region,omitempty"`

	// A path that the files lie below in the bucket. Default: none.
	Prefix Value `json:"prefix,omitempty"`

	// The size of one range read of a fill, and of one part of an upload.
	// Default: 16MiB.
	PartSize Value `json:"part_size,omitempty"`

	// How many range reads of one fill run at a time. Default: 8.
	Parallel Value `json:"parallel,omitempty"`

	// How many requests to this bucket run at a time. Default: 64.
	MaxRequests Value `json:"max_requests,omitempty"`
}

const defaultParallel = 8

// originSettings are an OriginConfig's values: dir, or else r2.
type originSettings struct {
	dir         string
	r2          r2.Config
	parallel    int // of one fill
	maxRequests int
}

func (s originSettings) local() bool { return s.dir != "" }

func (s originSettings) partSize() int64 {
	if s.local() {
		return 0
	}
	return s.r2.PartSize
}

func (c *OriginConfig) resolve(v *values) originSettings {
	switch {
	case c != nil && c.R2 != nil && c.Dir != nil:
		v.fail("origin", errors.New("expected one of dir and r2, got both"))
		return originSettings{}
	case c != nil && c.R2 != nil:
		return c.R2.resolve(v)
	case c != nil && c.Dir != nil:
		return originSettings{dir: v.path("origin dir", c.Dir.Path, dataDir("objects"))}
	default:
		return originSettings{dir: dataDir("objects")}
	}
}

func (c *R2Config) resolve(v *values) originSettings {
	return originSettings{
		r2: r2.Config{
			Bucket:          v.text("origin r2: bucket", c.Bucket, ""),
			AccountID:       resolveAs(v, "origin r2: account_id", c.AccountID, "", parseAccountID),
			Jurisdiction:    v.text("origin r2: jurisdiction", c.Jurisdiction, ""),
			Endpoint:        v.text("origin r2: endpoint", c.Endpoint, ""),
			AccessKeyID:     v.text("origin r2: access_key_id", c.AccessKeyID, ""),
			SecretAccessKey: v.text("origin r2: secret_access_key", c.SecretAccessKey, ""),
			SessionToken:    v.text("origin r2: session_token", c.SessionToken, ""),
			Region:          v.text("origin r2: region", c.Region, ""),
			Prefix:          v.text("origin r2: prefix", c.Prefix, ""),
			PartSize:        resolveAs(v, "origin r2: part_size", c.PartSize, int64(r2.DefaultPartSize), parsePartSize),
		},
		parallel:    int(resolveAs(v, "origin r2: parallel", c.Parallel, int64(defaultParallel), parseCount)),
		maxRequests: int(resolveAs(v, "origin r2: max_requests", c.MaxRequests, int64(limit.DefaultPlaces), parseCount)),
	}
}

// spoolDir is where parts of uploads lie that memory has no room for: where the
// operator has given us disk.
func (s settings) spoolDir() string {
	if s.diskPath == "" {
		return dataDir("spool")
	}
	return filepath.Join(s.diskPath, "spool")
}

// open returns the origin. It reaches neither disk nor network. observe, if set,
// is told of requests to it.
func (s originSettings) open(log *slog.Logger, observe func(r2.Operation)) (origin.Origin, error) {
	if s.local() {
		return dir.New(s.dir), nil
	}
	config := s.r2
	config.Budget = limit.NewBudget(s.maxRequests)
	config.Logger = log
	config.Observe = observe
	o, err := r2.New(config)
	if err != nil {
		return nil, fmt.Errorf("origin r2: %w", err)
	}
	return limit.New(guard.New(o, log), config.Budget, readsOf), nil
}

// readsOf says how a file at the origin is read: what builds need and has some kB,
// by small requests; listings and logs, which no build needs and which may have
// 64 MiB, by large ones that are hasty.
func readsOf(path string) (class limit.Class, hasty bool) {
	p, err := nix.ParseCachePath(path)
	if err != nil {
		return limit.Large, false
	}
	switch p.Kind() {
	case nix.KindNARInfo, nix.KindRealisation, nix.KindBuildTrace, nix.KindDebugInfo:
		return limit.Small, false
	case nix.KindListing, nix.KindLog:
		return limit.Large, true
	default:
		return limit.Large, false
	}
}

// bucketOf returns the bucket behind an origin, if it is one.
func bucketOf(o origin.Origin) (*r2.Origin, bool) {
	if l, ok := o.(*limit.Origin); ok {
		o = l.Origin
	}
	if g, ok := o.(*guard.Guard); ok {
		o = g.Origin
	}
	bucket, ok := o.(*r2.Origin)
	return bucket, ok
}

// unqueued returns an origin without the queue before it: whether it answers can be
// asked, once a second, however many requests wait.
func unqueued(o origin.Origin) origin.Origin {
	if l, ok := o.(*limit.Origin); ok {
		return l.Origin
	}
	return o
}

// waiting returns how many requests to the bucket wait for others.
func (h *Handler) waiting() int {
	if l, ok := h.origin.(*limit.Origin); ok {
		return l.Waiting()
	}
	return 0
}
