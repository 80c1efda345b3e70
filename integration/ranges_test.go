package integration

import (
	"bytes"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"testing"
)

type rangeCase struct {
	field   string
	want    [][2]int
	refused bool
}

// rangeCases are values of Range and what they mean by RFC 9110, section 14: the
// first byte and the one after the last, from the end of the file where it is
// negative, or 0 as the end. A nil wants the whole file.
var rangeCases = []rangeCase{
	{field: "bytes=0-0", want: [][2]int{{0, 1}}},
	{field: "bytes=0-", want: [][2]int{{0, 0}}},
	{field: "bytes=007-008", want: [][2]int{{7, 9}}},
	{field: "bytes=5-999999999", want: [][2]int{{5, 0}}},
	{field: "bytes=5-99999999999999999999", want: [][2]int{{5, 0}}},
	{field: "bytes=-1", want: [][2]int{{-1, 0}}},
	{field: "bytes=-999999999", want: [][2]int{{0, 0}}},
	{field: "bytes= 1-2\t", want: [][2]int{{1, 3}}},
	{field: "Bytes=1-2", want: [][2]int{{1, 3}}},
	{field: "bytes=,1-2,", want: [][2]int{{1, 3}}},
	{field: "bytes=0-0,-1", want: [][2]int{{0, 1}, {-1, 0}}},
	{field: "bytes=0-0 , 2-3", want: [][2]int{{0, 1}, {2, 4}}},
	{field: "bytes=-0,2-3", want: [][2]int{{2, 4}}},
	{field: "bytes=999999999-,2-3", want: [][2]int{{2, 4}}},

	{field: "items=0-1"},
	{field: "items=-0-"},
	{field: "bytes=0-0,2-2,4-4,6-6,8-8,10-10,12-12,14-14,16-16"}, // too many

	{field: "bytes=999999999-", refused: true},
	{field: "bytes=999999999-999999999", refused: true},
	{field: "bytes=99999999999999999999-", refused: true},
	{field: "bytes=-0", refused: true},
	{field: "bytes=-0-", refused: true},
	{field: "bytes=+5-", refused: true},
	{field: "bytes=5-2", refused: true},
	{field: "bytes=0-0,5-2", refused: true},
	{field: "bytes=1 -2", refused: true},
	{field: "bytes=abc", refused: true},
	{field: "bytes=-", refused: true},
	{field: "bytes=", refused: true},
	{field: "bytes", refused: true},
	{field: "nonsense", refused: true},
}

// TestRanges: each Range means the same to GET and HEAD, wherever the file is.
func TestRanges(t *testing.T) {
	t.Parallel()
	o := r2Origin(t)
	c := startCache(t, o)
	hot, absent := signedPackage("ranges-hot", 20_000), signedPackage("ranges-absent", 100)
	o.lay(t, hot)
	c.getUntil(t, narinfoPath(hot), memoryHit)
	c.getUntil(t, narPath(hot), diskHit)
	for i, rc := range rangeCases {
		cold, described := signedPackage(fmt.Sprint("ranges-cold-", i), 20_000), signedPackage(fmt.Sprint("ranges-described-", i), 20_000)
		o.lay(t, cold)
		o.lay(t, described)
		for _, file := range []struct {
			path string
			body []byte
		}{
			{narinfoPath(hot), hot.Text()},
			{narPath(hot), hot.File},
			{narinfoPath(cold), cold.Text()},
			{narPath(cold), cold.File},
		} {
			rc.check(t, c, "GET", file.path, file.body)
		}
		rc.check(t, c, "HEAD", narinfoPath(hot), hot.Text())
		rc.check(t, c, "HEAD", narPath(hot), hot.File)
		rc.check(t, c, "HEAD", narinfoPath(described), described.Text())
		rc.check(t, c, "HEAD", narPath(described), described.File)
		for _, path := range []string{narinfoPath(absent), narPath(absent)} {
			c.get(t, path, header("Range", rc.field)).wantStatus(t, http.StatusNotFound)
			c.head(t, path, header("Range", rc.field)).wantStatus(t, http.StatusNotFound)
		}
	}
}

func (rc rangeCase) check(t *testing.T, c *cache, method, path string, body []byte) {
	t.Helper()
	a := c.do(t, method, path, nil, header("Range", rc.field))
	a.Request += " " + rc.field
	switch {
	case rc.refused:
		a.wantStatus(t, http.StatusRequestedRangeNotSatisfiable)
		a.wantHeader(t, "Content-Range", fmt.Sprintf("bytes */%d", len(body)))
		a.wantHeader(t, "Cache-Control", "no-store")
	case rc.want == nil:
		a.wantStatus(t, http.StatusOK)
		a.wantHeader(t, "Content-Range", "")
		wantContent(t, a, method, body)
	case len(rc.want) == 1:
		from, to := rc.bounds(0, len(body))
		a.wantStatus(t, http.StatusPartialContent)
		a.wantHeader(t, "Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, to-1, len(body)))
		wantContent(t, a, method, body[from:to])
	default:
		a.wantStatus(t, http.StatusPartialContent)
		if method == "GET" {
			rc.checkParts(t, a, body)
		}
	}
}

// bounds returns where a range begins and ends in a file of that size.
func (rc rangeCase) bounds(i, size int) (from, to int) {
	from, to = rc.want[i][0], rc.want[i][1]
	if from < 0 {
		from += size
	}
	if to <= 0 {
		to += size
	}
	return from, to
}

// wantContent checks a body, or for HEAD the length it would have.
func wantContent(t *testing.T, a answer, method string, body []byte) {
	t.Helper()
	if a.Length != int64(len(body)) {
		t.Errorf("%s: Content-Length is %d, want %d", a.Request, a.Length, len(body))
	}
	if method == "GET" {
		a.wantBody(t, body)
	}
}

func (rc rangeCase) checkParts(t *testing.T, a answer, body []byte) {
	t.Helper()
	_, params, err := mime.ParseMediaType(a.Header.Get("Content-Type"))
	if err != nil {
		t.Fatalf("%s: Content-Type: %v", a.Request, err)
	}
	parts := multipart.NewReader(bytes.NewReader(a.Body), params["boundary"])
	for i := range rc.want {
		from, to := rc.bounds(i, len(body))
		part, err := parts.NextPart()
		if err != nil {
			t.Fatalf("%s: %v", a.Request, err)
		}
		if got, err := io.ReadAll(part); err != nil || !bytes.Equal(got, body[from:to]) {
			t.Errorf("%s: part %d is %q, %v; want %q", a.Request, i, got, err, body[from:to])
		}
	}
	if _, err := parts.NextPart(); err != io.EOF {
		t.Errorf("%s: more parts than ranges: %v", a.Request, err)
	}
}
