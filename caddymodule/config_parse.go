package caddymodule

import (
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/dustin/go-humanize"
)

// The parsers of the values' texts; the Caddyfile checks with the same.

func parseSize(s string) (int64, error) {
	n, err := humanize.ParseBytes(s)
	if err != nil || n > math.MaxInt64 {
		return 0, fmt.Errorf("expected a size such as 512MiB or 10GB, got %q", s)
	}
	return int64(n), nil
}

// parseDuration knows days as Caddy does, and years besides.
func parseDuration(s string) (time.Duration, error) {
	if years, ok := cutYears(s); ok {
		return years, nil
	}
	d, err := caddy.ParseDuration(s)
	if err != nil || d < 0 {
		return 0, fmt.Errorf("expected a duration such as 30s, 12h or 7d, got %q", s)
	}
	return d, nil
}

func cutYears(s string) (time.Duration, bool) {
	if len(s) < 2 || s[len(s)-1] != 'y' {
		return 0, false
	}
	n, err := strconv.ParseUint(s[:len(s)-1], 10, 8)
	return time.Duration(n) * 365 * 24 * time.Hour, err == nil
}

func parseInteger(s string) (int64, error) {
	n, err := strconv.ParseInt(s, 10, 32)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("expected a whole number that is not negative, got %q", s)
	}
	return n, nil
}
