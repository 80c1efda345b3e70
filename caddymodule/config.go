package caddymodule

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/dustin/go-humanize"

	"github.com/stevedores-org/nix-cache/caddymodule/auth"
	"github.com/stevedores-org/nix-cache/caddymodule/auth/oidc"
	"github.com/stevedores-org/nix-cache/caddymodule/cache"
	"github.com/stevedores-org/nix-cache/caddymodule/cache/disk"
	"github.com/stevedores-org/nix-cache/caddymodule/nix"
	"github.com/stevedores-org/nix-cache/caddymodule/upload"
)

// Value is the text of a setting. It may hold placeholders, so sizes, numbers
// and durations are text too; in JSON a number may stand without quotes.
type Value string

// UnmarshalJSON takes a string or a number.
func (v *Value) UnmarshalJSON(b []byte) error {
	var n json.Number
	if len(b) > 0 && b[0] != '"' && json.Unmarshal(b, &n) == nil {
		*v = Value(n)
		return nil
	}
	return json.Unmarshal(b, (*string)(v))
}

// literal reports whether the value holds no placeholder.
func (v Value) literal() bool { return !strings.Contains(string(v), "{") }

// DiskConfig is the tier on disk.
type DiskConfig struct {
	// Its directory, which no other process may use at the same time.
	// Default: nix-cache/tier in Caddy's data directory.
	Path Value `json:"path,omitempty"`

	// The most that the directory may take up. Default: 10GiB.
	Size Value `json:"size,omitempty"`

	// Free space to leave on its file system. Default: 1GiB.
	MinFree Value `json:"min_free,omitempty"`

	// No tier on disk: NARs are passed through, and fetched each time.
	Off bool `json:"off,omitempty"`
}

// settings are a Handler's values, resolved, with defaults, and checked.
type settings struct {
	name          string
	origin        originSettings
	memory        int64
	disk          disk.Limits
	diskPath      string // "": off
	negativeTTL   time.Duration
	authorities   auth.Authorities // who may do what
	oidc          []oidc.Grant
	trustedKeys   nix.PublicKeys
	signWith      []nix.PrivateKey
	priority      int64
	narinfoMaxAge time.Duration
	maxUploadSize int64
	onDivergence  upload.Divergence
	references    upload.References
	compressions  upload.Compressions
	outageAbsent  bool // narinfos that can't be looked up are answered as absent
}

func (s settings) limits() cache.Limits {
	return cache.Limits{Memory: s.memory, Disk: s.disk}
}

// Defaults. defaultMaxSize is what R2 takes as one object in one request: 5 GiB
// less 5 MiB (developers.cloudflare.com/r2/platform/limits).
const (
	defaultName    = "nix-cache"
	defaultMemory  = 256 << 20
	defaultDisk    = 10 << 30
	defaultMinFree = 1 << 30
	defaultMaxSize = 5<<30 - 5<<20
	defaultMaxAge  = 365 * 24 * time.Hour
	defaultTTL     = 30 * time.Second
	defaultPrio    = 40
)

func dataDir(name string) string { return filepath.Join(caddy.AppDataDir(), "nix-cache", name) }

// resolve reads the Handler's values. Its error names the setting.
func (h *Handler) resolve(repl *caddy.Replacer) (settings, error) {
	v := values{repl: repl, source: h.Source}
	s := settings{
		name:          v.text("name", h.Name, defaultName),
		memory:        resolveAs(&v, "memory", h.Memory, int64(defaultMemory), parseMemory),
		negativeTTL:   v.duration("negative_ttl", h.NegativeTTL, defaultTTL),
		priority:      v.integer("priority", h.Priority, defaultPrio),
		narinfoMaxAge: v.duration("narinfo_max_age", h.NARInfoMaxAge, defaultMaxAge),
		maxUploadSize: resolveAs(&v, "max_upload_size", h.MaxUploadSize, int64(defaultMaxSize), parseUploadSize),
	}
	s.onDivergence = resolveAs(&v, "on_divergence", h.OnDivergence, upload.KeepFirst, upload.ParseDivergence)
	s.references = resolveAs(&v, "require_references", h.RequireReferences, upload.AnyReferences, upload.ParseReferences)
	s.outageAbsent = resolveAs(&v, "outage_answers", h.OutageAnswers, false, parseOutageAnswers)
	s.compressions = h.resolveCompressions(&v)
	s.origin = h.Origin.resolve(&v)
	h.Disk.resolve(&v, &s)
	s.authorities = h.resolveAuthorities(&v)
	for _, c := range h.OIDC {
		s.oidc = append(s.oidc, c.resolve(&v))
	}
	s.trustedKeys = h.resolveKeys(&v)
	s.signWith = h.resolveSignWith(&v, s.trustedKeys)
	if h.VerifyReads && s.trustedKeys.Len() == 0 {
		v.fail("verify_reads", errors.New("there is no key to verify with: set trusted_public_key"))
	}
	for _, e := range v.empty {
		h.log.Warn("a placeholder is empty or not set: it counts as no value", "setting", e.setting, "placeholder", e.placeholder, "at", h.Source.of(e.setting))
	}
	return s, v.err
}

func (d *DiskConfig) resolve(v *values, s *settings) {
	if d == nil {
		d = &DiskConfig{}
	}
	if d.Off || s.origin.local() {
		return
	}
	s.diskPath = v.path("disk", d.Path, dataDir("tier"))
	s.disk.Bytes = v.size("disk", d.Size, defaultDisk)
	s.disk.MinFree = v.size("disk", d.MinFree, defaultMinFree)
	if s.disk.Bytes < disk.MinBytes {
		v.fail("disk", fmt.Errorf("%d bytes are too few: expected at least %s, or disk off", s.disk.Bytes, humanize.IBytes(disk.MinBytes)))
	}
}

func (h *Handler) resolveCompressions(v *values) upload.Compressions {
	var cs upload.Compressions
	for _, value := range h.AcceptCompression {
		more, err := upload.ParseCompressions(v.text("accept_compression", value, ""))
		v.failOf("accept_compression", value, err)
		cs = append(cs, more...)
	}
	if len(cs) == 0 {
		return upload.DefaultCompressions
	}
	return cs
}

func (h *Handler) resolveKeys(v *values) nix.PublicKeys {
	var keys []nix.PublicKey
	for _, value := range h.TrustedPublicKeys {
		for text := range strings.FieldsSeq(v.text("trusted_public_key", value, "")) {
			key, err := nix.ParsePublicKey(text)
			v.failOf("trusted_public_key", value, err)
			keys = append(keys, key)
		}
	}
	if v.err != nil {
		return nix.PublicKeys{}
	}
	set, err := nix.NewPublicKeys(keys...)
	v.fail("trusted_public_key", err)
	return set
}

// values resolves Values, and keeps the first error.
type values struct {
	repl   *caddy.Replacer
	source Source
	err    error
	empty  []emptyPlaceholder
}

// emptyPlaceholder is one that stands for nothing: mostly it is misspelt.
type emptyPlaceholder struct{ setting, placeholder string }

func (v *values) fail(setting string, err error) { v.failOf(setting, "", err) }

// failOf is fail for one value of a setting that may have several.
func (v *values) failOf(setting string, value Value, err error) {
	if err != nil && v.err == nil {
		v.err = v.source.locate(strings.TrimSpace(setting+" "+string(value)), fmt.Errorf("%s: %w", setting, err))
	}
}

func (v *values) text(setting string, value Value, fallback string) string {
	s, err := v.repl.ReplaceFunc(string(value), func(placeholder string, value any) (any, error) {
		if value == "" {
			v.empty = append(v.empty, emptyPlaceholder{setting, "{" + placeholder + "}"})
		}
		return known(placeholder, value)
	})
	v.failOf(setting, value, err)
	if s == "" {
		return fallback
	}
	return s
}

// known refuses placeholders that stand for nothing. An environment variable
// that is not set stands for an empty text; a file that can't be read does not,
// or a list of trusted keys would become one that trusts everybody.
func known(placeholder string, value any) (any, error) {
	switch {
	case value != nil:
		return value, nil
	case strings.HasPrefix(placeholder, "file."):
		return nil, fmt.Errorf("the file of {%s} can't be read", placeholder)
	default:
		return nil, fmt.Errorf("there is no placeholder {%s}", placeholder)
	}
}

func (v *values) path(setting string, value Value, fallback string) string {
	abs, err := filepath.Abs(v.text(setting, value, fallback))
	v.fail(setting, err)
	return abs
}

func (v *values) size(setting string, value Value, fallback int64) int64 {
	return resolveAs(v, setting, value, fallback, parseSize)
}

func (v *values) duration(setting string, value Value, fallback time.Duration) time.Duration {
	return resolveAs(v, setting, value, fallback, parseDuration)
}

func (v *values) integer(setting string, value Value, fallback int64) int64 {
	return resolveAs(v, setting, value, fallback, parseInteger)
}

func resolveAs[T any](v *values, setting string, value Value, fallback T, parse func(string) (T, error)) T {
	s := v.text(setting, value, "")
	if s == "" {
		return fallback
	}
	parsed, err := parse(s)
	v.fail(setting, err)
	return parsed
}
