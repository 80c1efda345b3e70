package integration

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/stevedores-org/nix-cache/caddymodule/nix/nixtest"
)

// unsignedFile is a file that nobody signs, and another one to replace it.
type unsignedFile struct {
	kind, path, contentType string
	body, other             string
}

// unsignedFiles returns a file of each kind and form. Those of another name
// have other paths.
func unsignedFiles(name string) []unsignedFile {
	drv := nixtest.StorePath(name + "-1.0+a_b=c.drv").Base()
	hash := nixtest.StorePath(name).Hash()
	digest := fmt.Sprintf("%x", sha256.Sum256([]byte(name)))
	id, buildID := "sha256:"+digest+"!out", digest[:40]
	outPath := `"outPath":"` + nixtest.StorePath(name).Base() + `"`
	debugInfo := `{"archive":"../` + nixtest.NewPackage(name, 10).NARInfo.URL() + `","member":"lib/debug/.build-id/` + buildID[:2] + "/" + buildID[2:] + `.debug"}`
	return []unsignedFile{
		{"listing", "/" + hash + ".ls", "application/json", `{"version":1,"root":{"type":"directory","entries":{}}}`, `{"root":{"type":"regular","size":1,"narOffset":96},"version":1}`},
		{"log", "/log/" + drv, "text/plain; charset=utf-8", "<script>alert(1)</script>\nbuilding\x00\xff\n", "building again, for longer than before\n"},
		{"realisation", "/realisations/" + id + ".doi", "application/json", `{"dependentRealisations":{},"id":"` + id + `",` + outPath + `,"signatures":[]}`, "{" + outPath + `,"signatures":["a:b"]}`},
		{"realisation", "/build-trace-v2/" + drv + "/out.doi", "application/json", "{" + outPath + `,"signatures":[]}`, "{" + outPath + `,"signatures":[{"keyName":"a","sig":"b"}]}`},
		{"debuginfo", "/debuginfo/" + buildID + ".debug", "application/json", debugInfo, debugInfo + " "},
	}
}

// TestUnsignedFiles has a subtest for what the contract says of each of them.
func TestUnsignedFiles(t *testing.T) {
	t.Parallel()
	forEachOrigin(t, func(t *testing.T, o *testOrigin) {
		c := startCache(t, o, "token reader "+readToken+" read", "token deleter "+deleteToken+" upload delete")
		for _, test := range []struct {
			name string
			run  func(*testing.T, *cache, unsignedFile)
		}{
			{"auth first", testUnsignedAuth},
			{"PUT and GET", testUnsignedPut},
			{"replaced", testUnsignedReplaced},
			{"read", testUnsignedReads},
			{"methods", testUnsignedMethods},
			{"content coding is undone", testUnsignedEncodings},
			{"behind the cache", testUnsignedBehind},
			{"restart", testUnsignedRestart},
		} {
			t.Run(test.name, func(t *testing.T) {
				for _, f := range unsignedFiles(strings.ReplaceAll(test.name, " ", "-")) {
					t.Run(strings.Split(f.path[1:], "/")[0], func(t *testing.T) { test.run(t, c, f) })
				}
			})
		}
	})
}

func testUnsignedAuth(t *testing.T, c *cache, f unsignedFile) {
	for _, body := range []string{f.body, "garbage"} {
		c.do(t, "PUT", f.path, []byte(body)).wantRefusal(t, http.StatusUnauthorized, "")
		c.do(t, "PUT", f.path, []byte(body), basic("wrong")).wantRefusal(t, http.StatusForbidden, "")
		c.do(t, "PUT", f.path, []byte(body), bearer(readToken)).wantRefusal(t, http.StatusForbidden, "")
	}
	c.get(t, f.path).wantStatus(t, http.StatusNotFound)
}

func testUnsignedPut(t *testing.T, c *cache, f unsignedFile) {
	for _, status := range []string{bypass + "; fwd-status=404", negativeHit} {
		a := c.get(t, f.path)
		a.wantRefusal(t, http.StatusNotFound, "")
		a.wantHeader(t, "Cache-Control", "no-store")
		a.wantHeader(t, "Cache-Status", status)
	}
	testStoredTwice(t, c, f.path, []byte(f.body), bearer(uploadToken))
	a := c.get(t, f.path)
	a.wantHeader(t, "Content-Type", f.contentType)
	a.wantHeader(t, "Content-Encoding", "")
	sandbox := ""
	if f.kind == "log" {
		sandbox = "sandbox"
	}
	a.wantHeader(t, "Content-Security-Policy", sandbox)
}

// testUnsignedReplaced: the latest upload is what is read, at once.
func testUnsignedReplaced(t *testing.T, c *cache, f unsignedFile) {
	t.Parallel() // R2 takes one write a second to each key
	etags := map[string]bool{}
	for _, body := range []string{f.body, f.other, f.body + "\n", f.body} {
		c.put(t, f.path, []byte(body)).wantStatus(t, http.StatusCreated)
		a := c.get(t, f.path)
		a.wantBody(t, []byte(body))
		a.wantHeader(t, "ETag", c.head(t, f.path).Header.Get("ETag"))
		etags[a.Header.Get("ETag")] = true
	}
	// In a bucket the first and the last are one version, in a directory two.
	if want := map[bool]int{true: 3, false: 4}[c.origin.bucket != nil]; len(etags) != want {
		t.Errorf("%d ETags, want %d: %v", len(etags), want, etags)
	}
}

func testUnsignedReads(t *testing.T, c *cache, f unsignedFile) {
	c.put(t, f.path, []byte(f.body)).wantStatus(t, http.StatusCreated)
	rc := readCase{
		name: "nar", // of which HEAD does not read all
		path: f.path, body: []byte(f.body), contentType: f.contentType,
		cacheControl: []string{"no-cache", "public"},
	}
	testColdHead(t, c, rc)
	a := c.get(t, f.path)
	rc.check(t, a)
	a.wantHeader(t, "Cache-Status", bypass)
	a.wantHeader(t, "Accept-Ranges", "bytes")
	testHeadAsGet(t, c, rc)
	testRanges(t, c, rc)
	testNotModified(t, c, rc)
	testUnsatisfiable(t, c, rc)
}

func testUnsignedMethods(t *testing.T, c *cache, f unsignedFile) {
	c.put(t, f.path, []byte(f.body)).wantStatus(t, http.StatusCreated)
	for _, method := range []string{"DELETE", "POST", "PATCH", "OPTIONS"} {
		a := c.do(t, method, f.path, nil, bearer(deleteToken))
		a.wantRefusal(t, http.StatusMethodNotAllowed, "")
		a.wantHeader(t, "Allow", "GET, HEAD, PUT")
	}
	c.get(t, f.path).wantBody(t, []byte(f.body))
}

func testUnsignedEncodings(t *testing.T, c *cache, f unsignedFile) {
	t.Parallel() // as above
	for i, coding := range slices.Sorted(maps.Keys(nixtest.ContentEncoders)) {
		text := f.body + strings.Repeat("\n", i) // another for each
		body := nixtest.ContentEncoders[coding]([]byte(text))
		c.put(t, f.path, body, header("Content-Encoding", coding)).wantStatus(t, http.StatusCreated)
		a := c.get(t, f.path, header("Accept-Encoding", coding))
		a.wantBody(t, []byte(text))
		a.wantHeader(t, "Content-Encoding", "")
		c.put(t, f.path, body[:len(body)/2], header("Content-Encoding", coding)).wantRefusal(t, http.StatusBadRequest, "decoded")
		c.get(t, f.path).wantBody(t, []byte(text))
	}
	c.put(t, f.path, []byte(f.body), header("Content-Encoding", "rot13")).wantRefusal(t, http.StatusBadRequest, "Content-Encoding")
}

// testUnsignedBehind: what another node has written is seen without waiting.
func testUnsignedBehind(t *testing.T, c *cache, f unsignedFile) {
	c.put(t, f.path, []byte(f.body)).wantStatus(t, http.StatusCreated)
	c.get(t, f.path).wantBody(t, []byte(f.body))
	c.origin.put(t, f.path[1:], []byte(f.other))
	c.get(t, f.path).wantBody(t, []byte(f.other))
}

func testUnsignedRestart(t *testing.T, c *cache, f unsignedFile) {
	c.put(t, f.path, []byte(f.body)).wantStatus(t, http.StatusCreated)
	etag := c.get(t, f.path).Header.Get("ETag")
	c.restart(t)
	a := c.get(t, f.path)
	a.wantBody(t, []byte(f.body))
	a.wantHeader(t, "ETag", etag)
	c.put(t, f.path, []byte(f.body)).wantStatus(t, http.StatusOK)
	c.get(t, f.path).wantHeader(t, "ETag", etag)
}

// TestUnsignedFilesOfAPrivateCache: they are as private as all else.
func TestUnsignedFilesOfAPrivateCache(t *testing.T) {
	c := startCache(t, dirOrigin(t), privateLines...)
	for _, f := range unsignedFiles("private") {
		c.put(t, f.path, []byte(f.body)).wantStatus(t, http.StatusCreated)
		for _, method := range []string{"GET", "HEAD"} {
			c.do(t, method, f.path, nil).wantStatus(t, http.StatusUnauthorized)
			c.do(t, method, f.path, nil, basic(uploadToken)).wantStatus(t, http.StatusForbidden)
		}
		a := c.get(t, f.path, basic(readToken))
		a.wantBody(t, []byte(f.body))
		a.wantHeader(t, "Cache-Control", "private, no-cache")
	}
}

// TestUnsignedFilesInMetrics: each kind is counted under its label.
func TestUnsignedFilesInMetrics(t *testing.T) {
	c := startCache(t, dirOrigin(t))
	uploads := map[string]float64{}
	for _, f := range unsignedFiles("metrics") {
		c.put(t, f.path, []byte(f.body)).wantStatus(t, http.StatusCreated)
		c.get(t, f.path).wantStatus(t, http.StatusOK)
		uploads[f.kind]++
	}
	for kind, n := range uploads {
		c.wantMetric(t, "requests_total", `cache="nix-cache",kind="`+kind+`",method="PUT",status="201"`, n)
		c.wantMetric(t, "requests_total", `cache="nix-cache",kind="`+kind+`",method="GET",status="200"`, n)
		c.wantMetric(t, "uploads_total", `cache="nix-cache",kind="`+kind+`",outcome="stored",reason=""`, n)
		c.wantMetric(t, "lookups_total", `cache="nix-cache",kind="`+kind+`",method="GET",result="bypass"`, n)
	}
	if c.metric(t, "served_bytes_total", `cache="nix-cache",kind="log",source="origin"`) == 0 {
		t.Error("the bytes of logs are not counted")
	}
}

// nestedOrigin is a directory origin with room around it to find what has
// escaped.
func nestedOrigin(t *testing.T) (o *testOrigin, around string) {
	around = tempDir(t)
	dir := around + "/a/b/objects"
	return &testOrigin{caddyfile: "origin dir " + dir, dir: dir}, around
}

// files lists what is below a directory.
func files(t *testing.T, dir string) []string {
	t.Helper()
	var found []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			found = append(found, strings.TrimPrefix(path, dir))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// keys lists what is in a bucket.
func (b *r2Bucket) keys(t *testing.T) []string {
	t.Helper()
	page, err := b.direct.ListObjectsV2(context.WithoutCancel(t.Context()), &s3.ListObjectsV2Input{Bucket: aws.String(bucketName)})
	if err != nil {
		t.Fatal(err)
	}
	var keys []string
	for _, object := range page.Contents {
		keys = append(keys, "/"+*object.Key)
	}
	return keys
}

// TestAttack11PathsThatLeadElsewhere: in every spelling.
func TestAttack11PathsThatLeadElsewhere(t *testing.T) {
	const drv = someHash + "-hello-1.0.drv"
	digest := strings.Repeat("0", 64)
	paths := []string{
		"/log/..", "/log/../" + drv, "/log/../../" + drv, "/log/%2e%2e/" + drv, "/log/%2E%2E%2F" + drv, "/log/..%2f..%2f..%2f" + drv, "/log%2F..%2F..%2F" + drv,
		"/log/%252e%252e%252f" + drv, "/log%252F" + drv, "/log//" + drv, "//log/" + drv, "/./log/" + drv, "/log/./" + drv, "/log/x/../" + drv, "/log/" + drv + "/..", "/log/" + drv + "/",
		`/log/..%5C` + drv, `/log%5C` + drv, "/log/" + drv + "%00", "/log/%00" + drv, "/log/" + drv + "%0A", "/log/" + drv + "%20", "/log/%20" + drv, "/log/" + drv + "%FF", "/log/" + drv + "%C3%A9.drv",
		"/log/" + drv + "%2Fx", "/log/" + drv + ";x", "/log/" + someHash + "-hello", "/log/" + someHash + "-..-x.drv", "/log/" + someHash + "-" + strings.Repeat("x", 208) + ".drv", "/log/.staging/" + drv,
		"/.staging/" + someHash + ".ls", "/%2e%2e/" + someHash + ".ls", "/" + someHash + ".ls%00", "/" + someHash + ".ls/..", "/" + someHash + ".ls%2F..%2Fx.ls", "/x/../" + someHash + ".ls", "/" + someHash[1:] + ".ls", "/" + strings.ToUpper(someHash) + ".ls",
		"/realisations/../" + digest + "!out.doi", "/realisations/sha256:" + digest + "!..%2Fx.doi", "/realisations/sha256:" + digest + "!../../x.doi", "/realisations/sha256:" + digest + "!..doi", "/realisations/sha256:" + digest + "!...doi",
		"/realisations/sha256:" + digest + "%2521out.doi", "/realisations/sha256:" + digest + "!a%00.doi", "/realisations/sha256:" + digest + "!a%5C..doi", "/realisations/sha256:" + digest + "!" + strings.Repeat("x", 180) + ".doi", "/realisations/sha256:" + digest[1:] + "!out.doi",
		"/build-trace-v2/" + drv + "/../out.doi", "/build-trace-v2/" + drv + "/..%2Fout.doi", "/build-trace-v2/../" + drv + "/out.doi", "/build-trace-v2/" + drv + "/...doi", "/build-trace-v2/" + drv + "/a/b.doi", "/build-trace-v2/" + drv + "//out.doi", "/build-trace-v2/" + drv + "/" + strings.Repeat("x", 180) + ".doi",
		"/debuginfo/../" + digest[:40] + ".debug", "/debuginfo/" + digest[:38] + "%2F.debug", "/debuginfo/" + digest[:41] + ".debug", "/debuginfo/" + strings.Repeat("F", 40) + ".debug", "/debuginfo/" + digest[:2] + "/" + digest[2:40] + ".debug",
		"/nar/../log/" + drv, "/LOG/" + drv,
	}
	bodies := []string{unsignedFiles("x")[0].body, "a log", `{"outPath":"` + someHash + `-hello"}`}
	attack := func(t *testing.T, c *cache) {
		for _, path := range paths {
			c.get(t, path).wantRefusal(t, http.StatusNotFound, "")
			for _, body := range bodies {
				c.put(t, path, []byte(body)).wantRefusal(t, http.StatusBadRequest, "")
			}
		}
		c.put(t, "/nix-cache-info", []byte("StoreDir: /elsewhere\n")).wantRefusal(t, http.StatusMethodNotAllowed, "")
	}
	t.Run("origin=dir", func(t *testing.T) {
		o, around := nestedOrigin(t)
		attack(t, startCache(t, o))
		if found := files(t, around); len(found) > 0 {
			t.Errorf("there is now %q", found)
		}
	})
	t.Run("origin=r2", func(t *testing.T) {
		o := r2Origin(t)
		attack(t, startCache(t, o))
		if found := o.bucket.keys(t); len(found) > 0 {
			t.Errorf("there is now %q", found)
		}
	})
}

// TestUnsignedFilesLieAtTheirPaths: each spelling of a path is one key, and the
// key is the path, odd characters and all, so that what Nix itself has put there
// is found too.
func TestUnsignedFilesLieAtTheirPaths(t *testing.T) {
	forEachOrigin(t, func(t *testing.T, o *testOrigin) {
		c := startCache(t, o)
		var want []string
		for _, f := range unsignedFiles("odd-characters") {
			c.put(t, encodeAll(f.path), []byte(f.body)).wantStatus(t, http.StatusCreated)
			c.put(t, f.path, []byte(f.body)).wantStatus(t, http.StatusOK)
			c.get(t, encodeAll(f.path)).wantBody(t, []byte(f.body))
			want = append(want, f.path)
		}
		longest := "/build-trace-v2/" + someHash + "-" + strings.Repeat("%3F", 207) + ".drv/" + strings.Repeat("o", 179) + ".doi"
		f := unsignedFiles("longest")[3]
		c.put(t, longest, []byte(f.body)).wantStatus(t, http.StatusCreated)
		c.get(t, longest).wantBody(t, []byte(f.body))
		want = append(want, strings.ReplaceAll(longest, "%3F", "?"))
		slices.Sort(want)
		var found []string
		if o.bucket != nil {
			found = o.bucket.keys(t)
		} else {
			found = files(t, o.dir)
		}
		slices.Sort(found)
		if !slices.Equal(found, want) {
			t.Errorf("at the origin are\n%q\nwant\n%q", found, want)
		}
	})
}

// encodeAll percent-encodes all of a path but its slashes.
func encodeAll(path string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for _, c := range []byte(path) {
		if c == '/' {
			b.WriteByte(c)
		} else {
			b.Write([]byte{'%', hex[c>>4], hex[c&15]})
		}
	}
	return b.String()
}

// TestAttack11FilesThatNobodySigns: what could lead clients elsewhere is
// refused, and nobody sees what an uploader calls it.
func TestAttack11FilesThatNobodySigns(t *testing.T) {
	o := dirOrigin(t)
	c := startCache(t, o)
	files := unsignedFiles("attack-11")
	listing, log, realisation, buildTrace, debugInfo := files[0], files[1], files[2], files[3], files[4]
	id := strings.TrimSuffix(strings.TrimPrefix(realisation.path, "/realisations/"), ".doi")
	for _, attack := range []struct {
		of   unsignedFile
		body string
	}{
		{listing, ""}, {listing, "<html>"}, {listing, "[]"}, {listing, listing.body + "<html>"}, {listing, listing.body + listing.body}, {listing, strings.Replace(listing.body, "1", "2", 1)},
		{listing, `{"version":1,"root":` + strings.Repeat("[", 100_000)}, {listing, "{\"version\":1,\"root\":{\"\xff\":1}}"}, {listing, `{"version":1,"root":{},"root":{}}`},
		{realisation, "{}"}, {realisation, strings.Replace(realisation.body, id, id+"x", 1)}, {realisation, strings.Replace(realisation.body, `"outPath":"`, `"outPath":"../`, 1)},
		{buildTrace, "{}"}, {buildTrace, "[" + buildTrace.body + "]"},
		{debugInfo, "{}"}, {debugInfo, strings.Replace(debugInfo.body, "../nar", "../../nar", 1)}, {debugInfo, strings.Replace(debugInfo.body, "../nar", "https://elsewhere.invalid/nar", 1)},
		{debugInfo, strings.Replace(debugInfo.body, "../nar", "file:///nar", 1)}, {debugInfo, strings.Replace(debugInfo.body, "lib/", "../../", 1)}, {debugInfo, strings.Replace(debugInfo.body, "{", `{"archive":"../nar/x.nar",`, 1)},
	} {
		a := c.put(t, attack.of.path, []byte(attack.body))
		a.wantRefusal(t, http.StatusBadRequest, attack.of.kind)
		c.get(t, attack.of.path).wantStatus(t, http.StatusNotFound)
	}
	for _, f := range files {
		c.put(t, f.path, []byte(f.body), header("Content-Type", "text/html")).wantStatus(t, http.StatusCreated)
		a := c.get(t, f.path)
		a.wantHeader(t, "Content-Type", f.contentType)
		a.wantHeader(t, "X-Content-Type-Options", "nosniff")
	}
	for f, body := range map[unsignedFile][]byte{
		log:         make([]byte, 64<<20+1),
		realisation: append([]byte(realisation.body), bytes.Repeat([]byte("\n"), 64<<10)...),
		debugInfo:   append([]byte(debugInfo.body), bytes.Repeat([]byte("\n"), 64<<10)...),
	} {
		c.put(t, f.path, nixtest.Zstd(body), header("Content-Encoding", "zstd")).wantRefusal(t, http.StatusRequestEntityTooLarge, "")
		if f != log {
			c.put(t, f.path, body).wantRefusal(t, http.StatusRequestEntityTooLarge, "")
		}
		c.get(t, f.path).wantBody(t, []byte(f.body))
	}
	if leftover, err := os.ReadDir(o.dir + "/.staging"); err != nil || len(leftover) > 0 {
		t.Errorf("left of refused uploads: %v, %v", leftover, err)
	}
}
