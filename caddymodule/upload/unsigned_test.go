package upload

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
	"unicode/utf8"

	"github.com/stevedores-org/nix-cache/caddymodule/nix"
	"github.com/stevedores-org/nix-cache/caddymodule/origin"
	"github.com/stevedores-org/nix-cache/caddymodule/origin/origintest"
)

const (
	listingPath    = "xi3z0zsvvkzrcncm8z4rv8kpkha1c778.ls"
	logPath        = "log/lx1sdi359y5syjyz8apkr3ypqmzpyy4b-dbg-1.0.drv"
	realisationID  = "sha256:f7eb407cc2405c7e341f87c449fcd8a6e1700960c5c301e68fa378d3ac50ea5d!out"
	buildTracePath = "build-trace-v2/5bvf0xr38avdhq2rh10ac3iijjphf7yj-ca-1.0.drv/out.doi"
	debugInfoPath  = "debuginfo/abcdef0123456789abcdef0123456789abcdef01.debug"
)

const realisationPath = "realisations/" + realisationID + ".doi"

// unsignedFiles are as real clients write them: listings of Nix 2.8 and
// 2.34.8, a realisation of both; build traces in the form of 2.35's manual.
var unsignedFiles = []struct{ path, contentType, body string }{
	{listingPath, "application/json", `{"version":1,"root":{"type":"directory","entries":{"x":{"type":"directory","entries":{"y":{"type":"directory","entries":{"l":{"type":"symlink","target":"z"},"z":{"type":"regular","size":3,"narOffset":1608}}}}}}}}`},
	{listingPath, "application/json", `{"root":{"entries":{"x":{"entries":{"y":{"entries":{"l":{"target":"z","type":"symlink"},"z":{"narOffset":1608,"size":3,"type":"regular"}},"type":"directory"}},"type":"directory"}},"type":"directory"},"version":1}`},
	{logPath, "text/plain; charset=utf-8", "building dbg\n"},
	{logPath, "text/plain; charset=utf-8", "\x00\xff\x1b[31m<script>\r\n"},
	{logPath, "text/plain; charset=utf-8", ""},
	{realisationPath, "application/json", `{"dependentRealisations":{},"id":"` + realisationID + `","outPath":"3a8z59sdp7hp88fiv1z2qk96f108x329-ca-1.0","signatures":[]}`},
	{realisationPath, "application/json", `{"outPath":"3a8z59sdp7hp88fiv1z2qk96f108x329-ca-1.0"}`},
	{buildTracePath, "application/json", `{"outPath":"3a8z59sdp7hp88fiv1z2qk96f108x329-ca-1.0","signatures":[{"keyName":"cache.example.com-1","sig":"AA=="}]}`},
	{buildTracePath, "application/json", `{"key":{"drvPath":"3a8z59sdp7hp88fiv1z2qk96f108x329-ca-1.0.drv","outputName":"out"},"value":{"outPath":"3a8z59sdp7hp88fiv1z2qk96f108x329-ca-1.0","signatures":[]}}`},
	{debugInfoPath, "application/json", `{"archive":"../nar/1a7y0p0z7f3rllhxk8zmgs8w3nh1qji08iswms0kh0ly71mmvy16.nar.xz","member":"lib/debug/.build-id/ab/cdef0123456789abcdef0123456789abcdef01.debug"}`},
}

func cachePath(t testing.TB, path string) nix.CachePath {
	t.Helper()
	p, err := nix.ParseCachePath(path)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestEveryKindHasAReceiver(t *testing.T) {
	for k := range nix.Kinds() {
		if receivers[k] == nil {
			t.Errorf("there is no receiver for %s", k)
		}
	}
}

// TestUnsignedFiles: what clients write is stored as it is, and read again where
// it is there already.
func TestUnsignedFiles(t *testing.T) {
	for _, file := range unsignedFiles {
		t.Run(file.path, func(t *testing.T) {
			r, m := newReceiver()
			path, body := cachePath(t, file.path), []byte(file.body)
			wantOutcome(t, r, path, announced(body), Stored)
			wantOps(t, m, "open 1 create 1 commit 1")
			wantStored(t, m, file.path, body)
			if got := m.ContentType(file.path); got != file.contentType {
				t.Errorf("the content type is %q", got)
			}
			one := Body{Reader: iotest.OneByteReader(bytes.NewReader(body)), Size: -1}
			wantOutcome(t, r, path, one, Unchanged)
			wantOps(t, m, "open 1 create 1 abort 1")
		})
	}
}

// TestUnsignedFilesAreReplaced: the latest stays, also one of the same size.
func TestUnsignedFilesAreReplaced(t *testing.T) {
	for _, file := range unsignedFiles {
		r, m := newReceiver()
		path := cachePath(t, file.path)
		for _, before := range []string{"", file.body + " ", strings.Repeat("x", len(file.body)+1)} {
			m.Put(file.path, []byte(before))
			body := []byte(file.body + "\n")
			wantOutcome(t, r, path, announced(body), Stored)
			wantStored(t, m, file.path, body)
		}
	}
}

// bzip2Listing is a listing from the program bzip2, whose format Go doesn't
// write.
const (
	listing      = `{"version":1,"root":{"type":"regular","size":1,"narOffset":96}}`
	bzip2Listing = "425a6839314159265359827db85d00001e1d80100421300000a3a5df3a200050a00068193206a99a137aa1a3d4f50f24523961532102e2f41b4a7a02a5a28ff2b2a077e1ca438a8b9b225a71272d919fc5dc914e1424209f6e1740"
)

func TestUnsignedFilesAreDecoded(t *testing.T) {
	for _, file := range unsignedFiles {
		for encoding, encode := range encoders {
			r, m := newReceiver()
			wantOutcome(t, r, cachePath(t, file.path), encoded(encoding, encode([]byte(file.body))), Stored)
			wantStored(t, m, file.path, []byte(file.body))
		}
	}
	r, m := newReceiver()
	body, err := hex.DecodeString(bzip2Listing)
	if err != nil {
		t.Fatal(err)
	}
	wantOutcome(t, r, cachePath(t, listingPath), encoded("bzip2", body), Stored)
	wantStored(t, m, listingPath, []byte(listing))
	for n := range body {
		wantRejected(t, r, cachePath(t, listingPath), encoded("bzip2", body[:n]), Malformed)
	}
	wantRejected(t, r, cachePath(t, listingPath), encoded("bzip2", append(body, "garbage"...)), Malformed)
}

func TestUnsignedFilesThatBreakOff(t *testing.T) {
	for _, file := range unsignedFiles {
		for encoding, encode := range encoders {
			r, _ := newReceiver()
			path, body := cachePath(t, file.path), encode([]byte(file.body))
			for n := 0; n < len(body); n += 1 + len(body)/20 {
				broken := io.MultiReader(bytes.NewReader(body[:n]), iotest.ErrReader(io.ErrUnexpectedEOF))
				wantRejected(t, r, path, Body{Reader: broken, Size: -1, Encoding: encoding}, Incomplete)
				if path.Kind() != nix.KindLog || len(encode(nil)) > 0 && n > 0 {
					wantRejected(t, r, path, encoded(encoding, body[:n]), Malformed)
				}
			}
		}
		r, _ := newReceiver()
		wantRejected(t, r, cachePath(t, file.path), encoded("deflate", []byte(file.body)), Malformed)
	}
}

// TestAttack11UnsignedFiles: nobody signs these, so their form is all that keeps
// clients from being led elsewhere or choked.
func TestAttack11UnsignedFiles(t *testing.T) {
	listingOf := func(root string) string { return `{"version":1,"root":` + root + `}` }
	debugInfo := func(archive, member string) string {
		return fmt.Sprintf(`{"archive":%q,"member":%q}`, archive, member)
	}
	const nar, member = "../nar/1a7y0p0z7f3rllhxk8zmgs8w3nh1qji08iswms0kh0ly71mmvy16.nar", "lib/debug/x.debug"
	deep := strings.Repeat(`{"entries":`, maxNesting+1) + "{}" + strings.Repeat("}", maxNesting+1)
	many := strings.Repeat(`"%d":1,`, maxMembers)
	for path, bodies := range map[string][]string{
		listingPath: {
			"", " ", "null", "1", `"x"`, "[]", "{", "}", "{}", "{]", "[{}]", "<html>", "\ufeff" + listing, "\x00" + listing, listing + "\x00",
			listing + "x", listing + listing, listing + ",", listing + "]", listing[:len(listing)-1], strings.ToUpper(listing), "'" + listing + "'",
			`{"version":1}`, `{"root":{}}`, `{"version":2,"root":{}}`, `{"version":"1","root":{}}`, `{"version":1.0,"root":{}}`, `{"version":1e0,"root":{}}`,
			`{"version":1,"version":1,"root":{}}`, `{"version":1,"root":{},"\u0072oot":{}}`, `{"version":1,"root":{},}`, `{"version":1 "root":{}}`, `{"version":01,"root":{}}`,
			listingOf("[]"), listingOf(`"x"`), listingOf("null"), listingOf(`{"a":}`), listingOf(`{"a":1,}`), listingOf(`{"a"}`), listingOf(`{1:2}`), listingOf(`{"a":[1,]}`),
			listingOf("{\"\xff\":1}"), listingOf("{\"\xc3\":1}"), listingOf("{\"\xed\xa0\x80\":1}"), listingOf("{\"a\nb\":1}"), listingOf(`{"\x":1}`), listingOf("{\"a\":tru}"),
			listingOf(deep), listingOf(`{"a":` + strings.Repeat("[", 1<<20)), listingOf(`{"a":"` + strings.Repeat("x", maxToken+1) + `"}`),
			listingOf(`{"a":` + strings.Repeat("1", maxToken+1) + `}`), listingOf(`{"a":` + strings.Repeat(" ", maxToken+1) + `1}`), fmt.Sprintf("{"+many+listing[1:], ints(maxMembers)...),
		},
		realisationPath: {
			"", "[]", "{}", `{"outPath":1}`, `{"outPath":""}`, `{"outPath":"hello"}`, `{"outPath":"/nix/store/3a8z59sdp7hp88fiv1z2qk96f108x329-ca-1.0"}`, `{"outPath":"../3a8z59sdp7hp88fiv1z2qk96f108x329-ca-1.0"}`,
			`{"outPath":"3a8z59sdp7hp88fiv1z2qk96f108x329-ca-1.0","outPath":"3a8z59sdp7hp88fiv1z2qk96f108x329-ca-1.0"}`,
			`{"outPath":"3a8z59sdp7hp88fiv1z2qk96f108x329-ca-1.0","id":"` + realisationID + `x"}`, `{"outPath":"3a8z59sdp7hp88fiv1z2qk96f108x329-ca-1.0","id":null}`,
		},
		buildTracePath: {"", "[]", "{}", `{"key":{},"value":1}`, `{"outPath":"x"}`, `{"outPath":"3a8z59sdp7hp88fiv1z2qk96f108x329-ca-1.0"}x`},
		debugInfoPath: {
			"", "[]", "{}", debugInfo("", ""), debugInfo(nar, ""), debugInfo("", member), `{"archive":1,"member":2}`, `{"archive":["` + nar + `"],"member":"x"}`,
			debugInfo(nar[3:], member), debugInfo("../"+nar, member), debugInfo("/"+nar[3:], member), debugInfo("https://elsewhere.invalid/"+nar[3:], member), debugInfo("//elsewhere.invalid/"+nar[3:], member),
			debugInfo("file:///etc/passwd", member), debugInfo("../nar/../../x.nar", member), debugInfo(nar+"?x", member), debugInfo(nar+"#x", member), debugInfo(nar+".exe", member), debugInfo("../%6ear"+nar[6:], member),
			debugInfo("../"+listingPath, member), debugInfo(nar+"\n", member), debugInfo(nar, "/"+member), debugInfo(nar, "../"+member), debugInfo(nar, "lib/../../x"), debugInfo(nar, "."), debugInfo(nar, "lib//x"), debugInfo(nar, "a\nb"),
			`{"archive":"` + nar + `","member":"a\u0000b"}`, `{"archive":"` + nar + `","member":"x","archive":"https://elsewhere.invalid"}`,
		},
	} {
		r, _ := newReceiver()
		for _, body := range bodies {
			wantRejected(t, r, cachePath(t, path), announced([]byte(body)), Malformed)
		}
	}
}

func ints(n int) (numbers []any) {
	for i := range n {
		numbers = append(numbers, i)
	}
	return numbers
}

// TestUnsignedFilesThatAreTooLarge: as sent, and as they decode.
func TestUnsignedFilesThatAreTooLarge(t *testing.T) {
	for _, file := range unsignedFiles {
		r, m := newReceiver()
		path := cachePath(t, file.path)
		most := unsignedKinds[path.Kind()].max
		endless := &repeated{of: []byte(" ")}
		wantRejected(t, r, path, Body{Reader: endless, Size: most + 1}, TooLarge)
		if endless.taken > 0 || m.Ops("create") > 0 {
			t.Errorf("%s: %d bytes were read of a body that is announced as too large", file.path, endless.taken)
		}
	}
	r, _ := newReceiver()
	for _, path := range []string{realisationPath, buildTracePath, debugInfoPath} {
		// No run of white space is so long that it is refused for that.
		body := []byte(`{"a":[` + strings.Repeat("1,\n", maxRecord/3) + "1]}")
		wantRejected(t, r, cachePath(t, path), chunked(body), TooLarge)
		for encoding, encode := range encoders {
			wantRejected(t, r, cachePath(t, path), encoded(encoding, encode(body)), TooLarge)
		}
	}
	r.Origin = discarding{origintest.NewMemory()}
	for _, size := range []int64{maxLog, maxLog + 1} {
		_, err := r.Receive(t.Context(), cachePath(t, logPath), chunked(make([]byte, size)))
		var rejected *RejectedError
		if tooLarge := errors.As(err, &rejected) && rejected.Reason == TooLarge; tooLarge != (size > maxLog) {
			t.Errorf("Receive of %d bytes = %v", size, err)
		}
	}
}

// discarding is an origin that keeps nothing of what is written.
type discarding struct{ *origintest.Memory }

func (d discarding) Create(context.Context, string, origin.CreateOptions) (origin.Staged, error) {
	return discarded{io.Discard}, nil
}

type discarded struct{ io.Writer }

func (discarded) Commit() error { return nil }
func (discarded) Abort() error  { return nil }

// TestLargeListingsTakeLittleMemory: of a large listing no more than a window
// is held.
func TestLargeListingsTakeLittleMemory(t *testing.T) {
	r, m := newReceiver()
	r.Origin = discarding{m}
	entry := []byte(`"some-source-file-of-a-tree.c":{"type":"regular","size":12345,"narOffset":123456789},`)
	body := &watched{
		in: io.MultiReader(
			strings.NewReader(`{"version":1,"root":{"entries":{`),
			io.LimitReader(&cycle{of: entry}, int64(16<<20/len(entry)*len(entry))),
			strings.NewReader(`"z":{}}}}`)),
		before: alive(),
	}
	wantOutcome(t, r, cachePath(t, listingPath), Body{Reader: body, Size: -1}, Stored)
	if body.most > 2<<20 {
		t.Errorf("%d bytes were alive while it was read", body.most)
	}
}

func alive() int64 {
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return int64(stats.HeapAlloc)
}

// watched notes how the heap grows while it is read.
type watched struct {
	in                 io.Reader
	before, most, left int64
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.in.Read(p)
	if w.left -= int64(n); w.left < 0 {
		w.left = 2 << 20
		w.most = max(w.most, alive()-w.before)
	}
	return n, err
}

// cycle repeats a text.
type cycle struct {
	of   []byte
	next int
}

func (c *cycle) Read(p []byte) (int, error) {
	n := copy(p, c.of[c.next:])
	c.next = (c.next + n) % len(c.of)
	return n, nil
}

// TestOriginFailuresOfUnsignedFiles: they are not taken for the client's.
func TestOriginFailuresOfUnsignedFiles(t *testing.T) {
	for _, file := range unsignedFiles {
		if file.body == "" {
			continue
		}
		for _, step := range []string{"create", "write", "commit"} {
			r, m := newReceiver()
			breakStep(m, step, false)
			_, err := r.Receive(t.Context(), cachePath(t, file.path), announced([]byte(file.body)))
			var unavailable *origin.UnavailableError
			if !errors.As(err, &unavailable) {
				t.Errorf("%s fails: Receive(%s) = %v", step, file.path, err)
			}
			if _, there := m.Get(file.path); there {
				t.Errorf("%s fails, but there is something at %s", step, file.path)
			}
			mend(m)
			wantOutcome(t, r, cachePath(t, file.path), announced([]byte(file.body)), Stored)
		}
	}
	r, m := newReceiver()
	breakStep(m, "open", false)
	wantOutcome(t, r, cachePath(t, listingPath), announced([]byte(listing)), Stored)
}

// FuzzReadObject: what it takes, encoding/json and UTF-8 take too, and how a
// text is cut up makes no difference.
func FuzzReadObject(f *testing.F) {
	for _, file := range unsignedFiles {
		f.Add([]byte(file.body))
	}
	for _, text := range []string{listing, "{}x", "{}{}", "{", `{"a":[{"b":"\u00e9é"}],"c":-1.5e+9}`, "{\"\xff\":1}", `{"a":"\ud800"}`, "\ufeff{}"} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := readObject(bytes.NewReader(text))
		again, errAgain := readObject(iotest.OneByteReader(bytes.NewReader(text)))
		if (err == nil) != (errAgain == nil) || !reflect.DeepEqual(m, again) {
			t.Errorf("%q at once: %v, %v; byte by byte: %v, %v", text, m, err, again, errAgain)
		}
		var object map[string]any
		standard := json.Unmarshal(text, &object) == nil && object != nil && utf8.Valid(text)
		switch {
		case err == nil && !standard:
			t.Errorf("%q is taken as %v", text, m)
		case err == nil && len(m) != len(object):
			t.Errorf("%q has the members %v, not %v", text, m, object)
		case err != nil && standard && len(text) < maxNesting && len(text) < maxMembers && !strings.Contains(err.Error(), "twice"):
			t.Errorf("%q is refused: %v", text, err)
		}
	})
}
