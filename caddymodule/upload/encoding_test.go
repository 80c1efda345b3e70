package upload

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"hash/crc32"
	"io"
	"os"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"github.com/stevedores-org/nix-cache/caddymodule/nix"
)

// encoders has a row for each Content-Encoding.
var encoders = map[string]func(b []byte) []byte{
	"":         bytes.Clone,
	"identity": bytes.Clone,
	"none":     bytes.Clone,
	"zstd":     through(func(w io.Writer) io.WriteCloser { return must(zstd.NewWriter(w)) }),
	"br":       through(func(w io.Writer) io.WriteCloser { return brotli.NewWriter(w) }),
	"gzip":     through(func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) }),
	"xz":       storedXZ,
}

func through(encoder func(io.Writer) io.WriteCloser) func([]byte) []byte {
	return func(b []byte) []byte {
		var out bytes.Buffer
		w := encoder(&out)
		must(w.Write(b))
		if err := w.Close(); err != nil {
			panic(err)
		}
		return out.Bytes()
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// storedXZ makes an .xz file of one block without compression
// (tukaani.org/xz/xz-file-format.txt).
func storedXZ(b []byte) []byte {
	withCRC := func(b []byte) []byte { return binary.LittleEndian.AppendUint32(b, crc32.ChecksumIEEE(b)) }
	flags := []byte{0, 1} // with CRC32
	out := append([]byte("\xfd7zXZ\x00"), flags...)
	out = binary.LittleEndian.AppendUint32(out, crc32.ChecksumIEEE(flags))

	const lzma2, dict64K = 0x21, 8
	header := withCRC([]byte{2, 0, lzma2, 1, dict64K, 0, 0, 0})
	block := bytes.Clone(header)
	for rest, control := b, byte(1); len(rest) > 0; control = 2 {
		n := min(len(rest), 1<<16)
		block = append(block, control, byte((n-1)>>8), byte(n-1))
		block = append(block, rest[:n]...)
		rest = rest[n:]
	}
	block = append(block, 0)
	unpadded := len(block) + crc32.Size
	for len(block)%4 > 0 {
		block = append(block, 0)
	}
	block = binary.LittleEndian.AppendUint32(block, crc32.ChecksumIEEE(b))
	out = append(out, block...)

	index := binary.AppendUvarint([]byte{0, 1}, uint64(unpadded))
	index = binary.AppendUvarint(index, uint64(len(b)))
	for len(index)%4 > 0 {
		index = append(index, 0)
	}
	index = withCRC(index)
	footer := append(binary.LittleEndian.AppendUint32(nil, uint32(len(index)/4-1)), flags...)
	out = append(out, index...)
	out = binary.LittleEndian.AppendUint32(out, crc32.ChecksumIEEE(footer))
	return append(append(out, footer...), "YZ"...)
}

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
	zeros := make([]byte, 64<<20)
	bombs := map[string][]byte{"xz": must(os.ReadFile("testdata/zeros.xz"))}
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
		"zstd":       through(func(w io.Writer) io.WriteCloser { return must(zstd.NewWriter(w, zstd.WithWindowSize(512<<20))) })(text),
		"zstd again": through(func(w io.Writer) io.WriteCloser { return must(zstd.NewWriter(w, zstd.WithWindowSize(16<<20))) })(text),
		"xz":         through(func(w io.Writer) io.WriteCloser { return must(xz.WriterConfig{DictCap: 64 << 20}.NewWriter(w)) })(text),
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
		{"empty frames", "zstd", encoders["zstd"](nil)},
		{"empty members", "gzip", encoders["gzip"](nil)},
		{"empty streams", "xz", storedXZ(nil)},
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
