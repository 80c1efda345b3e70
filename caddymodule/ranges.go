package caddymodule

import (
	"fmt"
	"maps"
	"math"
	"net/http"
	"strconv"
	"strings"
)

// maxRanges is how many ranges of a file a client gets by one request. Nix asks
// for one. Each may be a request to the origin, and a header has room for tens
// of thousands.
const maxRanges = 8

// rangeRequest is what a Range asks for, before the size of the file is known.
type rangeRequest struct {
	specs   []rangeSpec // none: the whole file
	invalid bool        // it says nothing that has a meaning: answered with 416
}

// rangeSpec is one range as a client writes it: first-last, first-, or -suffix
// for the last bytes of the file. What is not given is -1.
type rangeSpec struct{ first, last, suffix int64 }

// byteRange is a range of a file: from its first byte to before its end.
type byteRange struct{ from, to int64 }

// parseRange reads a Range (RFC 9110, section 14.2). One in another unit than
// bytes is ignored, as it must be, and one of too many ranges, as it may be. An
// invalid one may be ignored or rejected: a client that miscounts is better off
// with an error than with a NAR of a gigabyte.
func parseRange(field string) rangeRequest {
	if field == "" {
		return rangeRequest{}
	}
	unit, set, ok := strings.Cut(field, "=")
	switch {
	case !ok || !isToken(unit):
		return rangeRequest{invalid: true}
	case !strings.EqualFold(unit, "bytes"), strings.Count(set, ",") >= maxRanges:
		return rangeRequest{}
	}
	var specs []rangeSpec
	for element := range strings.SplitSeq(set, ",") {
		element = strings.Trim(element, " \t")
		if element == "" { // such as a list may have: section 5.6.1.2
			continue
		}
		spec, ok := parseRangeSpec(element)
		if !ok {
			return rangeRequest{invalid: true}
		}
		specs = append(specs, spec)
	}
	return rangeRequest{specs: specs, invalid: len(specs) == 0}
}

func parseRangeSpec(text string) (rangeSpec, bool) {
	before, after, ok := strings.Cut(text, "-")
	first, hasFirst := parsePosition(before)
	last, hasLast := parsePosition(after)
	switch {
	case !ok:
		return rangeSpec{}, false
	case before == "":
		return rangeSpec{first: -1, last: -1, suffix: last}, hasLast
	case after == "":
		return rangeSpec{first: first, last: -1, suffix: -1}, hasFirst
	default:
		return rangeSpec{first: first, last: last, suffix: -1}, hasFirst && hasLast && first <= last
	}
}

// parsePosition reads digits and nothing else. One beyond all files is as good as
// the largest number.
func parsePosition(text string) (int64, bool) {
	if text == "" || strings.Trim(text, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		n = math.MaxInt64
	}
	return n, true
}

// isToken reports whether text is a token: RFC 9110, section 5.6.2.
func isToken(text string) bool {
	return text != "" && strings.Trim(text, "!#$%&'*+-.^_`|~0123456789"+
		"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ") == ""
}

// of returns the ranges of a file of that size, none for all of it; not ok if
// there are none that could be sent.
func (r rangeRequest) of(size int64) (ranges []byteRange, ok bool) {
	if r.invalid {
		return nil, false
	}
	for _, spec := range r.specs {
		if one, ok := spec.of(size); ok {
			ranges = append(ranges, one)
		}
	}
	return ranges, len(ranges) > 0 || len(r.specs) == 0
}

func (s rangeSpec) of(size int64) (byteRange, bool) {
	switch {
	case s.suffix >= 0:
		return byteRange{max(size-s.suffix, 0), size}, s.suffix > 0 && size > 0
	case s.last < 0:
		return byteRange{s.first, size}, s.first < size
	default:
		return byteRange{s.first, min(s.last, size-1) + 1}, s.first < size
	}
}

// withPlainRange returns the request with its Range as http.ServeContent is to
// take it: it reads some in other ways than parseRange does.
func withPlainRange(r *http.Request, size int64) *http.Request {
	field := r.Header.Get("Range")
	if field == "" {
		return r
	}
	plain := *r
	plain.Header = maps.Clone(r.Header) // the access log has the client's
	ranges, ok := parseRange(field).of(size)
	switch {
	case !ok:
		plain.Header.Set("Range", fmt.Sprintf("bytes=%d-", size)) // which is refused
	case len(ranges) == 0:
		plain.Header.Del("Range")
	default:
		plain.Header.Set("Range", plainRange(ranges))
	}
	return &plain
}

func plainRange(ranges []byteRange) string {
	texts := make([]string, len(ranges))
	for i, r := range ranges {
		texts[i] = fmt.Sprintf("%d-%d", r.from, r.to-1)
	}
	return "bytes=" + strings.Join(texts, ",")
}
