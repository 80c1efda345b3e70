package caddymodule

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/dustin/go-humanize"

	"github.com/stevedores-org/nix-cache/caddymodule/origin/r2"
)

// The parsers of the values' texts; the Caddyfile checks with the same.

func parseSize(s string) (int64, error) {
	n, err := humanize.ParseBytes(s)
	if err != nil || n > math.MaxInt64 {
		return 0, fmt.Errorf("expected a size such as 512MiB or 10GB, got %q", s)
	}
	return int64(n), nil
}

// minMemory is the least that is worth a tier, in bytes: some hundred narinfos.
const minMemory = 1 << 20

// parseMemory refuses what is too little to be meant, as 256 without a unit.
func parseMemory(s string) (int64, error) {
	n, err := parseSize(s)
	if err != nil || n == 0 || n >= minMemory {
		return n, err
	}
	meant := ""
	if _, err := strconv.Atoi(s); err == nil {
		meant = "; is " + s + "MiB meant?"
	}
	return 0, fmt.Errorf("%d bytes are too few: expected at least %s, or 0 for no tier%s", n, humanize.IBytes(minMemory), meant)
}

func parseAccountID(s string) (string, error) { return s, r2.CheckAccountID(s) }

// parseUploadSize refuses 0, which turns other settings off: here it would turn
// every upload away.
func parseUploadSize(s string) (int64, error) {
	n, err := parseSize(s)
	if err == nil && n == 0 {
		err = errors.New("expected a size of more than 0; without a token nobody uploads")
	}
	return n, err
}

func parsePartSize(s string) (int64, error) {
	n, err := parseSize(s)
	if err == nil && n < r2.MinPartSize {
		err = fmt.Errorf("%q is too little: expected at least %s", s, humanize.IBytes(r2.MinPartSize))
	}
	return n, err
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

func parseCount(s string) (int64, error) {
	n, err := parseInteger(s)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("expected a whole number of at least 1, got %q", s)
	}
	return n, nil
}

func parseInteger(s string) (int64, error) {
	n, err := strconv.ParseInt(s, 10, 32)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("expected a whole number that is not negative, got %q", s)
	}
	return n, nil
}

func parseOutageAnswers(s string) (absent bool, err error) {
	if s != "error" && s != "absent" {
		return false, fmt.Errorf("expected error or absent, got %q", s)
	}
	return s == "absent", nil
}
