package upload

import (
	"bytes"
	"io"
	"maps"
	"os"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"github.com/stevedores-org/nix-cache/caddymodule/nix"
	"github.com/stevedores-org/nix-cache/caddymodule/nix/nixtest"
)

// encoders has a row for each value of Content-Encoding.
var encoders = func() map[string]func(b []byte) []byte {
	encoders := maps.Clone(nixtest.ContentEncoders)
	for _, plain := range []string{"", "identity", "none"} {
		encoders[plain] = bytes.Clone
	}
	return encoders
}()

func TestEncodings(t *testing.T) {
	p := signed("hello", 1000)
	for encoding, encode := range encoders {
		t.Run("encoding "+encoding, func(t *testing.T) {
			r, m := newReceiver()
			push(t, m, p)
			body := encode(p.Text())
			wantOutcome(t, r, infoPath(p), encoded(encoding, body), Stored)
			wantStored(t, m, infoPath(p).String(), p.Text())

			one := Body{Reader: iotest.OneByteReader(bytes.NewReader(body)), Size: -1, Encoding: encoding}
			wantOutcome(t, r, infoPath(p), one, Unchanged)
		})
	}
}

// TestBrokenEncodings cuts each body everywhere: as if it ended there, and as if
// the connection broke there. Of a text, some lines make a narinfo that is not
// signed: another refusal.
func TestBrokenEncodings(t *testing.T) {
	p := signed("hello", 10)
	for encoding, encode := range encoders {
		t.Run("encoding "+encoding, func(t *testing.T) {
			r, m := newReceiver()
			push(t, m, p)
			body := encode(p.Text())
			for n := range body {
				if !bytes.HasSuffix(body[:n], []byte("\n")) || !bytes.Equal(body, p.Text()) {
					wantRejected(t, r, infoPath(p), encoded(encoding, body[:n]), Malformed)
				}
				broken := io.MultiReader(bytes.NewReader(body[:n]), iotest.ErrReader(io.ErrUnexpectedEOF))
				wantRejected(t, r, infoPath(p), Body{Reader: broken, Size: -1, Encoding: encoding}, Incomplete)
			}
		})
	}
}

func TestDamagedEncodings(t *testing.T) {
	p := signed("hello", 10)
	for encoding, encode := range encoders {
		t.Run("encoding "+encoding, func(t *testing.T) {
			r, m := newReceiver()
			push(t, m, p)
			body := encode(p.Text())
			wantRejected(t, r, infoPath(p), encoded(encoding, append(bytes.Clone(body), "garbage!"...)), Malformed)
			wantRejected(t, r, infoPath(p), encoded(encoding, []byte("garbage, and nothing else")), Malformed)
		})
	}
}

func TestUnknownEncodings(t *testing.T) {
	p := signed("hello", 10)
	r, m := newReceiver()
	push(t, m, p)
	for _, encoding := range []string{"deflate", "gzip, br", "lzip", "lz4", "\r\nX-Evil: 1", strings.Repeat("x", 1<<16)} {
		wantRejected(t, r, infoPath(p), encoded(encoding, p.Text()), Malformed)
		wantRejected(t, r, p.NARInfo.NARPath(), encoded(encoding, p.File), Malformed)
	}
}

// TestBombs: what decodes to more than a narinfo can have is refused, and takes
// neither the memory nor the time that decoding it would.
func TestBombs(t *testing.T) {
	zerosXZ, err := os.ReadFile("testdata/zeros.xz")
	if err != nil {
		t.Fatal(err)
	}
	zeros := make([]byte, 64<<20)
	bombs := map[string][]byte{"xz": zerosXZ}
	for _, encoding := range []string{"zstd", "br", "gzip"} {
		bombs[encoding] = encoders[encoding](zeros)
	}
	p := signed("hello", 10)
	r, m := newReceiver()
	push(t, m, p)
	for encoding, bomb := range bombs {
		t.Run(encoding, func(t *testing.T) {
			taken := allocated(func() { wantRejected(t, r, infoPath(p), encoded(encoding, bomb), TooLarge) })
			if most := uint64(24 << 20); taken > most {
				t.Errorf("%d bytes were allocated for a body of %d, more than %d", taken, len(bomb), most)
			}
		})
	}
}

// TestWindows: a header that asks for a large window does not get it.
func TestWindows(t *testing.T) {
	p := signed("hello", 10)
	r, m := newReceiver()
	push(t, m, p)
	// Of more than one block, so that the header gives the window and no size.
	text := bytes.Repeat([]byte(signed("x", 1).Text()), 10_000)
	for encoding, body := range map[string][]byte{
		"zstd":       nixtest.Encode(text, func(w io.Writer) (io.WriteCloser, error) { return zstd.NewWriter(w, zstd.WithWindowSize(512<<20)) }),
		"zstd again": nixtest.Encode(text, func(w io.Writer) (io.WriteCloser, error) { return zstd.NewWriter(w, zstd.WithWindowSize(16<<20)) }),
		"xz":         nixtest.Encode(text, func(w io.Writer) (io.WriteCloser, error) { return xz.WriterConfig{DictCap: 64 << 20}.NewWriter(w) }),
	} {
		encoding, _, _ = strings.Cut(encoding, " ")
		for _, path := range []nix.CachePath{infoPath(p), cachePath(t, logPath)} {
			taken := allocated(func() { wantRejected(t, r, path, encoded(encoding, body), Malformed) })
			if taken > 4<<20 {
				t.Errorf("%s: %d bytes were allocated", encoding, taken)
			}
		}
	}
}

func allocated(do func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	do()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// repeated is a body without end.
type repeated struct {
	of    []byte
	next  int
	taken int64
}

func (r *repeated) Read(p []byte) (int, error) {
	if r.taken > 32<<20 {
		return 0, io.ErrUnexpectedEOF
	}
	n := copy(p, r.of[r.next:])
	r.next = (r.next + n) % len(r.of)
	r.taken += int64(n)
	return n, nil
}

// TestEndlessBodiesOfNothing: bodies that go on and decode to nothing.
func TestEndlessBodiesOfNothing(t *testing.T) {
	skippable := append([]byte{0x50, 0x2a, 0x4d, 0x18, 0, 1, 0, 0}, make([]byte, 256)...)
	for _, test := range []struct {
		name, encoding string
		of             []byte
	}{
		{"identity", "", []byte("\n")},
		{"skippable frames", "zstd", skippable},
		{"empty frames", "zstd", nixtest.Zstd(nil)},
		{"empty members", "gzip", nixtest.Gzip(nil)},
		{"empty streams", "xz", nixtest.XZ(nil)},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := signed("hello", 10)
			r, m := newReceiver()
			push(t, m, p)
			body := &repeated{of: test.of}
			_, err := r.Receive(t.Context(), infoPath(p), Body{Reader: body, Size: -1, Encoding: test.encoding})
			if err == nil {
				t.Error("accepted")
			}
			if body.taken > 2*nix.MaxNARInfoSize {
				t.Errorf("%d bytes were read: %v", body.taken, err)
			}
		})
	}
}
