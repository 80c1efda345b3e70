package integration

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/andybalholm/brotli"
	"github.com/pierrec/lz4/v4"

	"github.com/stevedores-org/nix-cache/caddymodule/nix"
	"github.com/stevedores-org/nix-cache/caddymodule/nix/nixtest"
)

// A file of another hash than its name's would make honest uploaders skip theirs,
// a narinfo without its NAR breaks builds, and what is there must stay.
func TestAttack10NARs(t *testing.T) {
	forEachOrigin(t, func(t *testing.T, o *testOrigin) {
		c := startCache(t, o, everyCompression)
		for _, row := range []struct {
			name string
			test func(*testing.T, *cache)
		}{
			{"not what its name says", testWrongNARs},
			{"not what was signed", testWrongContents},
			{"narinfo before NAR", testNARInfoFirst},
			{"overwriting", testOverwriting},
			{"content coding of a NAR", testEncodedNAR},
		} {
			t.Run(row.name, func(t *testing.T) { row.test(t, c) })
		}
	})
}

func testWrongNARs(t *testing.T, c *cache) {
	p := signedPackage("wrong-nar", 100_000, nixtest.Compressed(nix.CompressionZstd, nixtest.Zstd))
	flipped := bytes.Clone(p.File)
	flipped[len(flipped)/2] ^= 1
	for name, body := range map[string][]byte{
		"a flipped bit": flipped,
		"another file":  signedPackage("wrong-nar-other", 100).File,
		"truncated":     p.File[:len(p.File)-1],
		"empty":         {},
		"more":          append(bytes.Clone(p.File), 0),
		"decompressed":  p.NAR,
	} {
		c.refuses(t, name, narPath(p), body, http.StatusUnprocessableEntity, "SHA-256")
	}
	c.honest(t, p)
	c.refuses(t, "over the right one", narPath(p), flipped, http.StatusUnprocessableEntity, "SHA-256")
	c.get(t, narPath(p)).wantBody(t, p.File)
}

// testWrongContents: the narinfo is signed, the file is what its name says, and
// is no NAR that the signer ever saw.
func testWrongContents(t *testing.T, c *cache) {
	for compression, compress := range nixtest.Compressors {
		name := "contents-" + compression.String()
		right := signedPackage(name, 1000, nixtest.Compressed(compression, compress))
		for i, spoil := range []func([]byte) []byte{
			func(nar []byte) []byte { nar[len(nar)/2] ^= 1; return compress(nar) },
			func(nar []byte) []byte { return compress(nar[:len(nar)-1]) },
			func(nar []byte) []byte { return compress(append(nar, 0)) },
			func(nar []byte) []byte { z := compress(nar); return z[:len(z)*3/4] },
			func(nar []byte) []byte { return nar },
		} {
			wrong := signedPackage(name, 1000, nixtest.Compressed(compression, spoil))
			c.put(t, narPath(wrong), wrong.File).wantStatus(t, http.StatusCreated)
			c.refuses(t, fmt.Sprint(name, " ", i), narinfoPath(wrong), wrong.Text(), http.StatusUnprocessableEntity, "decompress")
		}
		c.honest(t, right)
	}
}

func testNARInfoFirst(t *testing.T, c *cache) {
	p := signedPackage("narinfo-first", 1000)
	c.refuses(t, "", narinfoPath(p), p.Text(), http.StatusConflict, p.NARInfo.URL())
	c.honest(t, p)
}

func testOverwriting(t *testing.T, c *cache) {
	p, other := signedPackage("overwritten", 1000), signedPackage("overwritten", 2000)
	c.honest(t, p)
	c.put(t, narPath(other), other.File).wantStatus(t, http.StatusCreated)
	c.put(t, narinfoPath(p), other.Text()).wantStatus(t, http.StatusOK)
	c.get(t, narinfoPath(p)).wantBody(t, p.Text())
	c.refuses(t, "unsigned", narinfoPath(p), nixtest.NewPackage("overwritten", 2000).Text(), http.StatusBadRequest, "sign")
	c.refuses(t, "garbage", narinfoPath(p), []byte("garbage\n"), http.StatusBadRequest, "")
	c.refuses(t, "NAR", narPath(p), other.File, http.StatusUnprocessableEntity, "")
	c.get(t, narinfoPath(p)).wantBody(t, p.Text())
	c.get(t, narPath(p)).wantBody(t, p.File)
}

// testEncodedNAR: what is verified has to be what clients decode.
func testEncodedNAR(t *testing.T, c *cache) {
	p := signedPackage("encoded-nar", 1000)
	for coding, encode := range nixtest.ContentEncoders {
		c.refuses(t, coding, narPath(p), encode(p.File), http.StatusBadRequest, "Content-Encoding", header("Content-Encoding", coding))
		c.refuses(t, coding+" in name only", narPath(p), p.File, http.StatusBadRequest, "Content-Encoding", header("Content-Encoding", coding))
	}
	c.honest(t, p)
	c.get(t, narPath(p)).wantHeader(t, "Content-Encoding", "")
}

// bombGrowth is how much of memory a bomb may take.
const bombGrowth = 200 << 20

// A small file that decompresses to 1 GiB of zeros (256 MiB with lzip, which takes
// longest): it costs nothing while nobody
// signed that size, little memory where somebody did, and gets nowhere.
func TestAttack10Bombs(t *testing.T) {
	c := startFastCache(t, dirOrigin(t), everyCompression)
	zeros := make([]byte, 1<<20)
	for compression, file := range map[nix.Compression][]byte{
		nix.CompressionXZ:     bytes.Repeat(nixtest.XZ(zeros), 1<<10),
		nix.CompressionZstd:   bytes.Repeat(nixtest.Zstd(zeros), 1<<10),
		nix.CompressionBrotli: nixtest.Encode(nil, brotliOfZeros),
		nix.CompressionGzip:   bytes.Repeat(nixtest.Gzip(zeros), 1<<10),
		nix.CompressionBzip2:  bytes.Repeat(nixtest.Bzip2OfZeros(), 1<<10),
		nix.CompressionLzip:   bytes.Repeat(nixtest.Lzip(zeros), 1<<8),
		nix.CompressionLZ4:    nixtest.Encode(nil, lz4OfZeros),
	} {
		t.Run(compression.String(), func(t *testing.T) { testBomb(t, c, compression, file) })
	}
}

func testBomb(t *testing.T, c *cache, compression nix.Compression, file []byte) {
	name := "bomb-" + compression.String()
	bomb := signedPackage(name, 1000, nixtest.Compressed(compression, func([]byte) []byte { return file }))
	c.resetResidentPeak(t)
	before := c.residentNow(t)
	begin := time.Now()
	c.put(t, narPath(bomb), bomb.File).wantStatus(t, http.StatusCreated)
	uploaded := time.Since(begin)
	why := "decompresses to"
	if len(file) > 66_000 {
		why = "FileSize"
	}
	c.refuses(t, "small NarSize", narinfoPath(bomb), bomb.Text(), http.StatusUnprocessableEntity, why)
	small := time.Since(begin) - uploaded
	bomb.NARInfo.NARSize = 1 << 40
	bomb.NARInfo.Signatures = []nix.Signature{testKey.Sign(bomb.NARInfo)}
	c.refuses(t, "huge NarSize", narinfoPath(bomb), bomb.Text(), http.StatusUnprocessableEntity, "decompresses to")
	peak := c.residentPeak(t)
	t.Logf("%d bytes: uploaded in %v, refused in %v with a small NarSize, in %v with a huge one; memory %+d MiB",
		len(file), uploaded, small, time.Since(begin)-uploaded-small, (peak-before)>>20)
	if peak-before > bombGrowth {
		t.Errorf("memory went from %d to %d MiB", before>>20, peak>>20)
	}
	if compress := nixtest.Compressors[compression]; compress != nil {
		c.honest(t, signedPackage(name, 1000, nixtest.Compressed(compression, compress)))
	}
}

func brotliOfZeros(w io.Writer) (io.WriteCloser, error) { return zerosTo(brotli.NewWriterLevel(w, 2)) }
func lz4OfZeros(w io.Writer) (io.WriteCloser, error)    { return zerosTo(lz4.NewWriter(w)) }

// zerosTo writes 1 GiB of zeros.
func zerosTo(z io.WriteCloser) (io.WriteCloser, error) {
	for range 1 << 10 {
		if _, err := z.Write(make([]byte, 1<<20)); err != nil {
			return nil, err
		}
	}
	return z, nil
}

// TestAttackLengths: what is said of a body's length is not what comes.
func TestAttackLengths(t *testing.T) {
	t.Parallel() // it waits
	gone := []int{0, http.StatusBadRequest, http.StatusRequestEntityTooLarge, 499}
	forEachOrigin(t, func(t *testing.T, o *testOrigin) {
		c := startCache(t, o, "max_upload_size 1MiB")
		p := signedPackage("lengths", 1000)
		for _, target := range []struct {
			path string
			body []byte
		}{{narPath(p), p.File}, {narinfoPath(p), p.Text()}} {
			size := len(target.body)
			for name, test := range map[string]struct {
				length  string
				body    []byte
				answers []int // of gone: the client has left before the end
			}{
				"larger":               {fmt.Sprintf("Content-Length: %d", size+1), target.body, gone},
				"much larger":          {fmt.Sprintf("Content-Length: %d", 900_000), target.body, gone},
				"smaller":              {fmt.Sprintf("Content-Length: %d", size-1), target.body, []int{400, 422}},
				"none of it":           {"Content-Length: 0", target.body, []int{400, 422}},
				"negative":             {"Content-Length: -1", target.body, []int{400}},
				"not a number":         {"Content-Length: x", target.body, []int{400}},
				"signed":               {fmt.Sprintf("Content-Length: +%d", size), target.body, []int{400}},
				"two different":        {fmt.Sprintf("Content-Length: %d\r\nContent-Length: %d", size, size-1), target.body, []int{400}},
				"huge":                 {"Expect: 100-continue\r\nContent-Length: 9223372036854775807", target.body, []int{413}},
				"more than a number":   {"Content-Length: 18446744073709551616", target.body, []int{400}},
				"over the limit":       {"Content-Length: 2000000", target.body, []int{413}},
				"broken chunk":         {"Transfer-Encoding: chunked", []byte("zz\r\nhello\r\n0\r\n\r\n"), []int{400}},
				"chunk that ends soon": {"Transfer-Encoding: chunked", fmt.Appendf(nil, "%x\r\n%s", size+1, target.body), gone},
				"no last chunk":        {"Transfer-Encoding: chunked", fmt.Appendf(nil, "%x\r\n%s\r\n", size, target.body), gone},
				"huge chunk":           {"Transfer-Encoding: chunked", fmt.Appendf(nil, "7fffffffffffffff\r\n%s", target.body), gone},
				"unknown coding":       {"Transfer-Encoding: gzip", target.body, []int{400, 501}},
			} {
				cut := slices.Contains(test.answers, 0)
				if status := c.raw(t, target.path, test.length, test.body, cut); !slices.Contains(test.answers, status) {
					t.Errorf("%s %s: status %d, want one of %v", target.path, name, status, test.answers)
				}
				c.get(t, target.path).wantStatus(t, http.StatusNotFound)
				if slices.Contains(o.paths(t), target.path[1:]) {
					t.Errorf("%s %s: it is stored", target.path, name)
				}
			}
			chunks := fmt.Appendf(nil, "1\r\n%s\r\n%x\r\n%s\r\n0\r\n\r\n", target.body[:1], size-1, target.body[1:])
			if status := c.raw(t, target.path, "Transfer-Encoding: chunked", chunks, false); status != http.StatusCreated {
				t.Errorf("%s in chunks: status %d", target.path, status)
			}
			c.get(t, target.path).wantBody(t, target.body)
		}
	})
}

// raw sends a PUT with these headers of its length, and with cut says that it is
// going to send no more. It returns the status of the answer; 0 if there is none.
func (c *cache) raw(t *testing.T, path, length string, body []byte, cut bool) int {
	t.Helper()
	conn, err := net.DialTimeout("tcp", strings.TrimPrefix(c.base, "http://"), patience)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	credential := base64.StdEncoding.EncodeToString([]byte("x:" + uploadToken))
	fmt.Fprintf(conn, "PUT %s HTTP/1.1\r\nHost: localhost\r\nAuthorization: Basic %s\r\nConnection: close\r\n%s\r\n\r\n%s", path, credential, length, body)
	if cut {
		conn.(*net.TCPConn).CloseWrite()
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	if line, _ := io.ReadAll(resp.Body); len(line) >= 1024 {
		t.Errorf("PUT %s with %s: %d bytes of answer", path, length, len(line))
	}
	return resp.StatusCode
}
