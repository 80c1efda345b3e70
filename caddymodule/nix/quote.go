package nix

import "strconv"

// maxQuoted bounds what quote returns, in bytes, so that an error stays one
// short line whatever was parsed.
const maxQuoted = 72

// quote returns the beginning of s in double quotes, in printable ASCII.
func quote(s string) string {
	return quoteAtMost(s, maxQuoted)
}

func quoteAtMost(s string, limit int) string {
	q := strconv.QuoteToASCII(s[:min(len(s), limit)])
	if len(s) <= limit && len(q) <= limit {
		return q
	}
	return q[:min(len(q)-1, limit-len(`..."`))] + `..."`
}
