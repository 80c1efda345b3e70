package caddymodule

import (
	"maps"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/stevedores-org/nix-cache/caddymodule/auth"
	"github.com/stevedores-org/nix-cache/caddymodule/nix"
	"github.com/stevedores-org/nix-cache/caddymodule/origin/r2"
	"github.com/stevedores-org/nix-cache/caddymodule/upload"
)

const directive = "nix_cache"

func init() {
	httpcaddyfile.RegisterHandlerDirective(directive, parseDirective)
	httpcaddyfile.RegisterDirectiveOrder(directive, httpcaddyfile.Before, "file_server")
}

func parseDirective(helper httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	h := new(Handler)
	return h, h.UnmarshalCaddyfile(helper.Dispenser)
}

// subdirectives has a row for each: what it does with the rest of its line.
var subdirectives = map[string]func(*Handler, *caddyfile.Dispenser) error{
	"name":            value(func(h *Handler) *Value { return &h.Name }, anyText),
	"memory":          value(func(h *Handler) *Value { return &h.Memory }, checked(parseMemory)),
	"negative_ttl":    value(func(h *Handler) *Value { return &h.NegativeTTL }, checked(parseDuration)),
	"upload_token":    (*Handler).unmarshalUploadToken,
	"priority":        value(func(h *Handler) *Value { return &h.Priority }, checked(parseInteger)),
	"narinfo_max_age": value(func(h *Handler) *Value { return &h.NARInfoMaxAge }, checked(parseDuration)),
	"max_upload_size": value(func(h *Handler) *Value { return &h.MaxUploadSize }, checked(parseUploadSize)),

	"origin":             (*Handler).unmarshalOrigin,
	"disk":               (*Handler).unmarshalDisk,
	"token":              (*Handler).unmarshalToken,
	"token_file":         value(func(h *Handler) *Value { return &h.TokenFile }, anyText),
	"private":            flag(func(h *Handler) *bool { return &h.Private }),
	"oidc":               (*Handler).unmarshalOIDC,
	"trusted_public_key": (*Handler).unmarshalKeys,
	"sign_with":          (*Handler).unmarshalSignWith,
	"on_divergence":      value(func(h *Handler) *Value { return &h.OnDivergence }, checked(upload.ParseDivergence)),
	"accept_compression": (*Handler).unmarshalCompressions,
	"require_references": value(func(h *Handler) *Value { return &h.RequireReferences }, checked(upload.ParseReferences)),
	"outage_answers":     value(func(h *Handler) *Value { return &h.OutageAnswers }, checked(parseOutageAnswers)),
	"verify_reads":       flag(func(h *Handler) *bool { return &h.VerifyReads }),
	"pass_thru":          flag(func(h *Handler) *bool { return &h.PassThru }),
}

// r2Options is the same for the block of `origin r2`.
var r2Options = map[string]func(*R2Config, *caddyfile.Dispenser) error{
	"bucket":            value(func(c *R2Config) *Value { return &c.Bucket }, anyText),
	"account_id":        value(func(c *R2Config) *Value { return &c.AccountID }, r2.CheckAccountID),
	"jurisdiction":      value(func(c *R2Config) *Value { return &c.Jurisdiction }, anyText),
	"endpoint":          value(func(c *R2Config) *Value { return &c.Endpoint }, anyText),
	"access_key_id":     value(func(c *R2Config) *Value { return &c.AccessKeyID }, anyText),
	"secret_access_key": value(func(c *R2Config) *Value { return &c.SecretAccessKey }, anyText),
	"session_token":     value(func(c *R2Config) *Value { return &c.SessionToken }, anyText),
	"region":            value(func(c *R2Config) *Value { return &c.Region }, anyText),
	"prefix":            value(func(c *R2Config) *Value { return &c.Prefix }, anyText),
	"part_size":         value(func(c *R2Config) *Value { return &c.PartSize }, checked(parsePartSize)),
	"parallel":          value(func(c *R2Config) *Value { return &c.Parallel }, checked(parseCount)),
	"max_requests":      value(func(c *R2Config) *Value { return &c.MaxRequests }, checked(parseCount)),
}

// UnmarshalCaddyfile reads the directive:
//
//	nix_cache [<matcher>] {
//		name               <text>
//		origin dir         <path>
//		origin r2 {
//			bucket             <name>
//			account_id         <id>
//			jurisdiction       eu|fedramp
//			endpoint           <url>
//			access_key_id      <key>
//			secret_access_key  <secret>
//			session_token      <token>
//			region             <name>
//			prefix             <path>
//			part_size          <size>
//			parallel           <n>
//			max_requests       <n>
//		}
//		memory             <size>
//		disk               <path> <size> [<min free>]
//		disk off
//		negative_ttl       <duration>
//		upload_token       <secret>
//		token              <name> <secret> <right>...
//		token_file         <path>
//		oidc               <issuer> {
//			audience           <text>
//			claim              <name> <pattern>...
//			allow              <right>...
//		}
//		private
//		trusted_public_key <name:base64>...
//		sign_with          <secret key file>...
//		accept_compression none|xz|zstd|bzip2|gzip|br|lzip|lz4...
//		require_references off|same_cache
//		on_divergence      keep|reject
//		outage_answers     error|absent
//		verify_reads
//		priority           <n>
//		narinfo_max_age    <duration>
//		max_upload_size    <size>
//		pass_thru
//	}
func (h *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the directive's name
	h.Source = make(Source)
	h.Source.note("", d)
	if d.NextArg() {
		return d.Errf("%s takes no argument but a matcher, got %q: settings go into its block", directive, d.Val())
	}
	return unmarshalBlock(h, d, block[Handler]{subdirectives, "", h.Source})
}

// repeatable are the subdirectives that can be given several times.
var repeatable = []string{"token", "oidc", "claim", "trusted_public_key", "sign_with"}

// block is a block that is to be read.
type block[T any] struct {
	table  map[string]func(*T, *caddyfile.Dispenser) error
	name   string // of its settings in source, before their own
	source Source
}

// unmarshalBlock reads a block by its table. But for those that are repeatable,
// each subdirective stands once.
func unmarshalBlock[T any](to *T, d *caddyfile.Dispenser, b block[T]) error {
	seen := make(map[string]bool)
	last := directive
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		name := d.Val()
		if name == "{" {
			return d.Errf("%s takes no block", last)
		}
		last = name
		parse, known := b.table[name]
		if !known {
			return d.Errf("unknown setting %q: expected one of %s", name, strings.Join(slices.Sorted(maps.Keys(b.table)), ", "))
		}
		if seen[name] && !slices.Contains(repeatable, name) {
			return d.Errf("%s is given twice", name)
		}
		seen[name] = true
		b.source.note(b.name, d)
		if err := parse(to, d); err != nil {
			return err
		}
	}
	return nil
}

// value makes a row for a setting of one value.
func value[T any](field func(*T) *Value, check func(string) error) func(*T, *caddyfile.Dispenser) error {
	return func(to *T, d *caddyfile.Dispenser) error {
		name := d.Val()
		args := d.RemainingArgs()
		if len(args) != 1 {
			return d.Errf("%s: expected one value, got %d", name, len(args))
		}
		return setValue(d, name, field(to), args[0], check)
	}
}

// setValue sets a value, after checking it unless placeholders are to come.
func setValue(d *caddyfile.Dispenser, name string, field *Value, text string, check func(string) error) error {
	*field = Value(text)
	if !field.literal() {
		return nil
	}
	if err := check(text); err != nil {
		return d.Errf("%s: %v", name, err)
	}
	return nil
}

func anyText(string) error { return nil }

func checked[T any](parse func(string) (T, error)) func(string) error {
	return func(s string) error {
		_, err := parse(s)
		return err
	}
}

func (h *Handler) unmarshalOrigin(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	switch {
	case len(args) == 2 && args[0] == "dir":
		h.Origin = &OriginConfig{Dir: &DirConfig{Path: Value(args[1])}}
		return nil
	case len(args) == 1 && args[0] == "dir":
		h.Origin = &OriginConfig{Dir: &DirConfig{}}
		return nil
	case len(args) == 1 && args[0] == "r2":
		h.Origin = &OriginConfig{R2: &R2Config{}}
		return unmarshalBlock(h.Origin.R2, d, block[R2Config]{r2Options, "origin r2: ", h.Source})
	default:
		return d.Errf("origin: expected `origin dir [<path>]` or `origin r2 { … }`, got %q", strings.Join(args, " "))
	}
}

func (h *Handler) unmarshalDisk(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	h.Disk = new(DiskConfig)
	if len(args) == 1 && args[0] == "off" {
		h.Disk.Off = true
		return nil
	}
	if len(args) < 2 || len(args) > 3 {
		return d.Errf("disk: expected `disk <path> <size> [<min free>]` or `disk off`, got %q", strings.Join(args, " "))
	}
	h.Disk.Path = Value(args[0])
	if err := setValue(d, "disk", &h.Disk.Size, args[1], checked(parseSize)); err != nil || len(args) == 2 {
		return err
	}
	return setValue(d, "disk", &h.Disk.MinFree, args[2], checked(parseSize))
}

// unmarshalUploadToken takes no value, too, as where its {$VARIABLE} is not set:
// then nobody can upload.
func (h *Handler) unmarshalUploadToken(d *caddyfile.Dispenser) error {
	if d.CountRemainingArgs() == 0 {
		return nil
	}
	return value(func(h *Handler) *Value { return &h.UploadToken }, anyText)(h, d)
}

// unmarshalToken shows no word in its errors: where a {$VARIABLE} before it is not
// set, the secret stands in another's place.
func (h *Handler) unmarshalToken(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	if len(args) < 3 {
		return d.Errf("token: expected a name, a secret and rights, got %d words", len(args))
	}
	t := TokenConfig{Name: Value(args[0]), Rights: args[2:]}
	if err := setValue(d, "token", &t.Secret, args[1], checked(auth.ParseSecret)); err != nil {
		return err
	}
	if _, err := auth.ParseRights(t.Rights); err != nil {
		return d.Errf("token: %v", err)
	}
	h.Tokens = append(h.Tokens, t)
	return nil
}

func (h *Handler) unmarshalKeys(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	if len(args) == 0 {
		return d.Err("trusted_public_key: expected keys such as cache.example.org-1:…")
	}
	for _, arg := range args {
		var key Value
		if err := setValue(d, "trusted_public_key", &key, arg, checkKeys); err != nil {
			return err
		}
		h.TrustedPublicKeys = append(h.TrustedPublicKeys, key)
	}
	return nil
}

func (h *Handler) unmarshalCompressions(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	if len(args) == 0 {
		return d.Errf("accept_compression: expected names such as %s", upload.DefaultCompressions)
	}
	for _, arg := range args {
		var name Value
		if err := setValue(d, "accept_compression", &name, arg, checked(upload.ParseCompressions)); err != nil {
			return err
		}
		h.AcceptCompression = append(h.AcceptCompression, name)
	}
	return nil
}

func checkKeys(s string) error {
	for text := range strings.FieldsSeq(s) {
		if _, err := nix.ParsePublicKey(text); err != nil {
			return err
		}
	}
	return nil
}

func (h *Handler) unmarshalSignWith(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	if len(args) == 0 {
		return d.Err("sign_with: expected files with secret keys such as /etc/nix/cache.secret")
	}
	for _, arg := range args {
		h.SignWith = append(h.SignWith, Value(arg))
	}
	return nil
}

// flag makes a row for a setting that is on where it stands.
func flag(field func(*Handler) *bool) func(*Handler, *caddyfile.Dispenser) error {
	return func(h *Handler, d *caddyfile.Dispenser) error {
		name := d.Val()
		if d.NextArg() {
			return d.Errf("%s takes no value, got %q", name, d.Val())
		}
		*field(h) = true
		return nil
	}
}

var _ caddyfile.Unmarshaler = (*Handler)(nil)
