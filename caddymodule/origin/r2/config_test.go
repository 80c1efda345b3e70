package r2_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stevedores-org/nix-cache/caddymodule/origin/r2"
)

// secret is what must not be seen anywhere.
const secret = "s3cr3t-access-key"

func valid() r2.Config {
	return r2.Config{
		Bucket:          "cache",
		AccountID:       "0123456789abcdef0123456789abcdef",
		AccessKeyID:     "key-id",
		SecretAccessKey: secret,
		SessionToken:    secret,
	}
}

func TestConfigErrorsSayWhatToSet(t *testing.T) {
	for _, tt := range []struct {
		name  string
		spoil func(*r2.Config)
		want  string
	}{
		{"no bucket", func(c *r2.Config) { c.Bucket = "" }, "set bucket"},
		{"bucket with folder", func(c *r2.Config) { c.Bucket = "a/b" }, "prefix"},
		{"no endpoint", func(c *r2.Config) { c.AccountID = "" }, "set account_id"},
		{"two endpoints", func(c *r2.Config) { c.Endpoint = "https://example.org" }, "set one of them"},
		{"account id is too short", func(c *r2.Config) { c.AccountID = "0123456789abcdef" }, "32 hexadecimal digits"},
		{"account id is a URL", func(c *r2.Config) { c.AccountID = "https://x" }, "set account_id"},
		{"no such jurisdiction", func(c *r2.Config) { c.Jurisdiction = "moon" }, "eu or fedramp"},
		{"jurisdiction of an endpoint", func(c *r2.Config) { c.AccountID, c.Endpoint, c.Jurisdiction = "", "https://x", "eu" }, "leave jurisdiction out"},
		{"endpoint without scheme", func(c *r2.Config) { c.AccountID, c.Endpoint = "", "example.org" }, "https://"},
		{"endpoint with path", func(c *r2.Config) { c.AccountID, c.Endpoint = "", "https://example.org/cache" }, "bucket"},
		{"endpoint with password", func(c *r2.Config) { c.AccountID, c.Endpoint = "", "https://u:"+secret+"@example.org" }, "credentials"},
		{"no key id", func(c *r2.Config) { c.AccessKeyID = "" }, "set access_key_id"},
		{"no secret", func(c *r2.Config) { c.SecretAccessKey = "" }, "set secret_access_key"},
		{"small parts", func(c *r2.Config) { c.PartSize = r2.MinPartSize - 1 }, "set part_size"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			config := valid()
			tt.spoil(&config)
			_, err := r2.New(config)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("New = %v, want an error that says %q", err, tt.want)
			}
			if err != nil && strings.Contains(err.Error(), secret) {
				t.Errorf("the error holds the secret: %v", err)
			}
		})
	}
}

func TestStringNamesTheObjects(t *testing.T) {
	for _, tt := range []struct {
		jurisdiction, prefix, want string
	}{
		{"", "", "r2:0123456789abcdef0123456789abcdef.r2.cloudflarestorage.com/cache/"},
		{"eu", "", "r2:0123456789abcdef0123456789abcdef.eu.r2.cloudflarestorage.com/cache/"},
		{"fedramp", "/team/a/", "r2:0123456789abcdef0123456789abcdef.fedramp.r2.cloudflarestorage.com/cache/team/a/"},
	} {
		config := valid()
		config.Jurisdiction, config.Prefix = tt.jurisdiction, tt.prefix
		o, err := r2.New(config)
		if err != nil {
			t.Fatal(err)
		}
		if got := o.String(); got != tt.want {
			t.Errorf("String() = %s, want %s", got, tt.want)
		}
	}
}

func TestSecretsAreNotPrinted(t *testing.T) {
	config := valid()
	o, err := r2.New(config)
	if err != nil {
		t.Fatal(err)
	}
	for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
		for _, value := range []any{config, &config, o} {
			if format == "%#v" && value == any(o) {
				continue // Asks for the inside of a pointer.
			}
			if text := fmt.Sprintf(format, value); strings.Contains(text, secret) {
				t.Errorf("%s of %T holds the secret: %s", format, value, text)
			}
		}
	}
}
