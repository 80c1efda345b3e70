package caddymodule

import (
	"net/http"
	"testing"
)

// FuzzRange: whatever a client sends, what it gets lies within the file, and is
// no more than http.ServeContent is to send.
func FuzzRange(f *testing.F) {
	for _, field := range []string{"bytes=0-0", "bytes=5-", "bytes=-5", "bytes=-0-", "bytes=5-2,-0,7-", "items=0-1", "bytes=99999999999999999999-"} {
		f.Add(field, int64(10))
	}
	f.Fuzz(func(t *testing.T, field string, size int64) {
		if size < 0 {
			return
		}
		ranges, ok := parseRange(field).of(size)
		if len(ranges) > maxRanges || !ok && len(ranges) > 0 {
			t.Errorf("%q: %v, %v", field, ranges, ok)
		}
		for _, r := range ranges {
			if r.from < 0 || r.from >= r.to || r.to > size {
				t.Errorf("%q of %d bytes: %+v", field, size, r)
			}
		}
		header := http.Header{"Range": {field}}
		if from, isPart, tail := tailOffset(header, size); tail && isPart && (len(ranges) != 1 || ranges[0] != byteRange{from, size}) {
			t.Errorf("%q of %d bytes: from %d on, and %+v", field, size, from, ranges)
		}
	})
}
