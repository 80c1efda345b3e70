package r2

import (
	"cmp"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"regexp"
	"strings"

	"github.com/stevedores-org/nix-cache/caddymodule/origin/limit"
)

const (
	// MinPartSize is the smallest part of a multipart upload that R2 takes,
	// the last one aside.
	MinPartSize = 5 << 20
	// MaxPartSize is the largest.
	MaxPartSize = 5 << 30

	// DefaultPartSize is what Config.PartSize is if it is 0.
	DefaultPartSize = 16 << 20
	// DefaultSpoolMemory is what Config.SpoolMemory is if it is 0: two uploads
	// at full speed.
	DefaultSpoolMemory = 96 << 20
	// DefaultSpoolDisk is how many bytes of the spool lie in files at most
	// without a Config.SpoolRoom.
	DefaultSpoolDisk = 1 << 30

	maxParts = 10_000
)

// Config says which bucket an Origin is, and how to reach it.
type Config struct {
	// Bucket is the bucket's name. Required.
	Bucket string

	// AccountID is the Cloudflare account's id, 32 hexadecimal digits, from
	// which the endpoint follows. Required unless Endpoint is set.
	AccountID string

	// Jurisdiction is that of the bucket: "eu", "fedramp" or "" for none. It
	// goes with AccountID.
	Jurisdiction string

	// Endpoint is the URL of an S3 API, http or https, in place of AccountID.
	// The bucket's name goes into the path.
	Endpoint string

	// AccessKeyID and SecretAccessKey are those of an R2 API token. Required.
	AccessKeyID     string
	SecretAccessKey string

	// SessionToken goes with temporary credentials.
	SessionToken string

	// Region is the region to sign requests for. Default: "auto".
	Region string

	// Prefix is the folder of the bucket that holds the objects, such as
	// "team/cache". Default: the bucket itself.
	Prefix string

	// PartSize is the size of an upload's parts, in bytes. An object that
	// fits one part is one request; one upload holds up to three parts at a
	// time; an object has up to 10,000. Default: 16 MiB; at least 5 MiB.
	PartSize int64

	// SpoolMemory is how many bytes the parts of all uploads may take up in
	// memory. Others lie in files until they are sent. Where those have no room
	// either, uploads wait for memory, one at a time of which may take up to one
	// part more, and four where clients stall. Default: 96 MiB.
	SpoolMemory int64

	// SpoolDir is the directory for those files, which have no name and are
	// gone with the process. It is made when it is needed. Default: the
	// system's for temporary files, which may be in memory.
	SpoolDir string

	// SpoolRoom takes room for so many bytes more in those files, until release,
	// or says why there is none. It may be called from many goroutines.
	// Default: there is room for DefaultSpoolDisk.
	SpoolRoom func(n int64) (release func(), err error)

	// Budget has a place for each request that writes, lists or aborts. Those
	// that read or delete have theirs from the layer above, limit.Origin, which
	// is to have the same budget. Default: one of limit.DefaultPlaces.
	Budget *limit.Budget

	// Observe, if set, is told of every request that has ended. It is called
	// from many goroutines and must not block.
	Observe func(Operation)

	// Logger gets what no caller can be told, such as an upload that could not
	// be aborted. Default: nothing is logged.
	Logger *slog.Logger
}

// String describes the configuration without its secrets.
func (c Config) String() string {
	return fmt.Sprintf("r2.Config{Bucket: %q, AccountID: %q, Endpoint: %q, Prefix: %q}",
		c.Bucket, c.AccountID, c.Endpoint, c.Prefix)
}

// GoString is String.
func (c Config) GoString() string { return c.String() }

// LogValue is String.
func (c Config) LogValue() slog.Value { return slog.StringValue(c.String()) }

// withDefaults returns c complete, with its endpoint worked out, or says which
// setting to mend.
func (c Config) withDefaults() (Config, error) {
	c.Region = cmp.Or(c.Region, "auto")
	c.PartSize = cmp.Or(c.PartSize, DefaultPartSize)
	c.Budget = cmp.Or(c.Budget, limit.NewBudget(limit.DefaultPlaces))
	c.SpoolMemory = cmp.Or(c.SpoolMemory, DefaultSpoolMemory)
	c.SpoolDir = cmp.Or(c.SpoolDir, os.TempDir())
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Prefix = strings.Trim(c.Prefix, "/"); c.Prefix != "" {
		c.Prefix += "/"
	}
	endpoint, err := c.endpoint()
	if err != nil {
		return c, err
	}
	c.Endpoint = endpoint
	return c, c.check()
}

func (c Config) check() error {
	switch {
	case c.Bucket == "":
		return fmt.Errorf("r2: no bucket: set bucket to its name")
	case strings.Contains(c.Bucket, "/"):
		return fmt.Errorf("r2: bucket %q: set bucket to the name alone; a folder in it is the prefix", c.Bucket)
	case c.AccessKeyID == "":
		return fmt.Errorf("r2: no credentials: set access_key_id to that of an R2 API token")
	case c.SecretAccessKey == "":
		return fmt.Errorf("r2: no credentials: set secret_access_key to that of the R2 API token")
	case c.PartSize < MinPartSize || c.PartSize > MaxPartSize:
		return fmt.Errorf("r2: part size %d: set part_size to 5 MiB at least and 5 GiB at most", c.PartSize)
	}
	return nil
}

var accountID = regexp.MustCompile(`^[0-9A-Fa-f]{32}$`)

// CheckAccountID tells what is wrong with the id of an account.
func CheckAccountID(id string) error {
	if !accountID.MatchString(id) {
		return fmt.Errorf("expected the 32 hexadecimal digits that the R2 dashboard shows, got %q", id)
	}
	return nil
}

// endpoint follows https://developers.cloudflare.com/r2/api/s3/api/ and
// https://developers.cloudflare.com/r2/reference/data-location/.
func (c Config) endpoint() (string, error) {
	switch {
	case c.AccountID != "" && c.Endpoint != "":
		return "", fmt.Errorf("r2: both account_id and endpoint: set one of them")
	case c.Endpoint != "" && c.Jurisdiction != "":
		return "", fmt.Errorf("r2: jurisdiction with endpoint: the endpoint has it in its name already; leave jurisdiction out")
	case c.Endpoint != "":
		return parseEndpoint(c.Endpoint)
	case c.AccountID == "":
		return "", fmt.Errorf("r2: no endpoint: set account_id to the Cloudflare account's id, or endpoint to a URL")
	}
	if err := CheckAccountID(c.AccountID); err != nil {
		return "", fmt.Errorf("r2: set account_id right: %w", err)
	}
	switch c.Jurisdiction {
	case "":
		return "https://" + c.AccountID + ".r2.cloudflarestorage.com", nil
	case "eu", "fedramp":
		return "https://" + c.AccountID + "." + c.Jurisdiction + ".r2.cloudflarestorage.com", nil
	}
	return "", fmt.Errorf("r2: jurisdiction %q: set it to eu or fedramp, or leave it out", c.Jurisdiction)
}

func parseEndpoint(s string) (string, error) {
	u, err := url.Parse(s)
	// The text is not repeated: it may hold a password.
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return "", fmt.Errorf("r2: endpoint is no URL: set it like https://<account id>.r2.cloudflarestorage.com")
	}
	if u.User != nil || u.RawQuery != "" || u.Fragment != "" || strings.Trim(u.Path, "/") != "" {
		return "", fmt.Errorf("r2: endpoint has more than scheme and host: set bucket and credentials on their own")
	}
	return u.Scheme + "://" + u.Host, nil
}
