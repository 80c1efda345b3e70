package decompress

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/pierrec/lz4/v4"
	"github.com/therootcompany/xz"
	ulikunitz "github.com/ulikunitz/xz"

	"github.com/stevedores-org/nix-cache/caddymodule/nix"
	"github.com/stevedores-org/nix-cache/caddymodule/nix/nixtest"
)

func TestEveryCompressionHasADecoder(t *testing.T) {
	c := nix.CompressionNone
	for ; !strings.HasPrefix(c.String(), "compression("); c++ {
		if decompressors[c] == nil {
			t.Errorf("none for %s", c)
		}
	}
	if _, err := NewReader(strings.NewReader(""), c); err == nil {
		t.Errorf("there is a decoder for %s", c)
	}
}

func decode(file []byte, c nix.Compression) ([]byte, error) {
	r, err := NewReader(bytes.NewReader(file), c)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

// harmless has the bytes of small files that may be others, for what clients take
// as well, and make the same of. All that the decoders accepted of these files with
// each byte changed to each other value, or cut off anywhere, was given to
// libarchive 3.6.2, which Nix decompresses with (and its liblzma, libzstd and zlib),
// and to libbrotlidec 1.0.9.
var harmless = map[nix.Compression]func(at int) bool{
	nix.CompressionGzip: func(at int) bool {
		const flags, os = 3, 9 // flags: of text; then MTIME, XFL and OS
		return flags <= at && at <= os
	},
	nix.CompressionZstd: func(at int) bool {
		const descriptor, window = 4, 5 // descriptor: the bit that is not used
		return at == descriptor || at == window
	},
	nix.CompressionLzip: func(at int) bool {
		const dict, secondMember = 5, 46
		return at == dict || at == secondMember+dict
	},
}

// TestDamagedFilesAreRefused: what a decoder accepts is stored for good, and
// clients must be able to read it.
func TestDamagedFilesAreRefused(t *testing.T) {
	data := []byte(strings.Repeat("content\n", 20) + "and some other text, 1234567890")
	for c, compress := range nixtest.Compressors {
		t.Run(c.String(), func(t *testing.T) {
			t.Parallel()
			file := compress(data)
			if c == nix.CompressionXZ {
				file = xzOfSmallDict(data)
			}
			if got, err := decode(file, c); err != nil || !bytes.Equal(got, data) {
				t.Fatalf("the file itself: %q, %v", got, err)
			}
			testCut(t, c, file)
			testFlipped(t, c, file, data)
		})
	}
}

// xzOfSmallDict spares the decoders from clearing megabytes.
func xzOfSmallDict(data []byte) []byte {
	return nixtest.Encode(data, func(w io.Writer) (io.WriteCloser, error) {
		return ulikunitz.WriterConfig{DictCap: 1 << 16}.NewWriter(w)
	})
}

func testCut(t *testing.T, c nix.Compression, file []byte) {
	for n := range file {
		if c == nix.CompressionLzip && bytes.HasPrefix(file[n:], []byte("LZIP")) && n > 0 {
			continue // between members, which are files of their own
		}
		if got, err := decode(file[:n], c); err == nil {
			t.Errorf("cut off after %d bytes of %d: %q", n, len(file), got)
		}
	}
}

func testFlipped(t *testing.T, c nix.Compression, file, data []byte) {
	for i := range file {
		for _, pattern := range []byte{0x01, 0x10, 0x20, 0x55, 0x80} {
			flipped := bytes.Clone(file)
			flipped[i] ^= pattern
			got, err := decode(flipped, c)
			if err != nil || c == nix.CompressionBrotli {
				continue // brotli has no checksum: clients make the same other content of it
			}
			if !bytes.Equal(got, data) || harmless[c] == nil || !harmless[c](i) {
				t.Errorf("byte %d ^ %#x: %q", i, pattern, got)
			}
		}
	}
}

// xzContent is what the files in testdata decompress to: some text, and more that
// can't be compressed.
func xzContent() []byte {
	b := []byte(strings.Repeat("content\n", 20))
	for i := range byte(10) {
		h := sha256.Sum256([]byte{i})
		b = append(b, h[:]...)
	}
	return b
}

// TestXZVariants: what the xz program writes, with these options, is read, in
// whatever pieces it comes. And a byte other than 0 where a range decoder begins is
// found in each chunk.
func TestXZVariants(t *testing.T) {
	files, err := filepath.Glob("testdata/*.xz")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, name := range files {
		file, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for how, in := range map[string]io.Reader{
			"at once":      bytes.NewReader(file),
			"by bytes":     iotest.OneByteReader(bytes.NewReader(file)),
			"with the end": iotest.DataErrReader(bytes.NewReader(file)),
		} {
			r, err := NewReader(in, nix.CompressionXZ)
			if err != nil {
				t.Fatal(name, how, err)
			}
			if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, xzContent()) {
				t.Errorf("%s, %s: %q, %v", name, how, got, err)
			}
		}
	}
}

// TestXZWalkerFollows: it finds the end of each file, where nothing but padding or
// another stream may be.
func TestXZWalkerFollows(t *testing.T) {
	large := make([]byte, 3<<20) // several chunks of either kind
	for i := range large[:1<<20] {
		large[i] = byte(rand.Uint32())
	}
	files := map[string][]byte{"large": nixtest.XZ(large), "empty": nixtest.XZ(nil), "blocks": nixtest.Encode(large, func(w io.Writer) (io.WriteCloser, error) {
		return ulikunitz.WriterConfig{BlockSize: 100_000, CheckSum: ulikunitz.SHA256}.NewWriter(w)
	})}
	names, _ := filepath.Glob("testdata/*.xz")
	for _, name := range names {
		files[name], _ = os.ReadFile(name)
	}
	for name, file := range files {
		w := newXZWalker(bytes.NewReader(file))
		if _, err := io.Copy(io.Discard, w); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got, err := decode(append(file, "\xfd7zXZ\x00garbage"...), nix.CompressionXZ); err == nil {
			t.Errorf("%s, and more: %d bytes", name, len(got))
		}
		if err := w.walk([]byte("\xfd7zXZ\x00\x00\x0a\x00\x00\x00\x00")); err != nil || w.check != 32 || !w.between() {
			t.Errorf("%s: the end was not found: %v", name, err)
		}
	}
}

func TestXZFirstByte(t *testing.T) {
	file := nixtest.XZ([]byte(strings.Repeat("content\n", 20)))
	const first = 30 // after headers of 12 and 12, a control byte, sizes and properties
	if file[first] != 0 {
		t.Fatalf("%x", file)
	}
	file[first] ^= 0x55
	if _, err := decode(file, nix.CompressionXZ); err != errXZFirstByte {
		t.Errorf("%v, want %v", err, errXZFirstByte)
	}
}

// BenchmarkXZWalker is the decoder with the walker in front of it, and without.
func BenchmarkXZWalker(b *testing.B) {
	program, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	data, err := os.ReadFile(program)
	if err != nil {
		b.Fatal(err)
	}
	file := nixtest.XZ(data)
	for name, in := range map[string]func() io.Reader{
		"with":    func() io.Reader { return newXZWalker(bytes.NewReader(file)) },
		"without": func() io.Reader { return bytes.NewReader(file) },
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				r, err := xz.NewReader(in(), maxXZDict)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := io.Copy(io.Discard, r); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("alone", func(b *testing.B) {
		b.SetBytes(int64(len(data)))
		for b.Loop() {
			_, _ = io.Copy(io.Discard, struct{ io.Reader }{newXZWalker(bytes.NewReader(file))})
		}
	})
}

func lz4Frame(s string, options ...lz4.Option) string {
	return string(nixtest.Encode([]byte(s), func(w io.Writer) (io.WriteCloser, error) {
		z := lz4.NewWriter(w)
		return z, z.Apply(options...)
	}))
}

// lz4Blocks is a frame with a block for each text.
func lz4Blocks(texts ...string) string {
	return string(nixtest.Encode(nil, func(w io.Writer) (io.WriteCloser, error) {
		z := lz4.NewWriter(w)
		for _, text := range texts {
			if _, err := io.WriteString(z, text); err != nil {
				return nil, err
			}
			if err := z.Flush(); err != nil {
				return nil, err
			}
		}
		return z, nil
	}))
}

func TestLZ4Frames(t *testing.T) {
	const skippable = "\x5f\x2a\x4d\x18\x03\x00\x00\x00abc"
	checked, unchecked := lz4Frame("content"), lz4Frame("content", lz4.ChecksumOption(false))
	all := lz4Frame("content", lz4.BlockChecksumOption(true), lz4.SizeOption(7))
	header := unchecked[:7]
	for name, test := range map[string]struct {
		file string
		want string // none if it is an error
	}{
		"checksum":               {checked, "content"},
		"no checksum":            {unchecked, "content"},
		"checksums and size":     {all, "content"},
		"small blocks":           {lz4Blocks("con", "tent"), "content"},
		"frames":                 {checked + unchecked, ""},
		"an empty frame":         {lz4Frame(""), ""},
		"an empty frame first":   {lz4Frame("") + checked, ""},
		"an empty frame last":    {checked + lz4Frame(""), ""},
		"a skippable frame":      {skippable + checked, ""},
		"a skippable frame last": {checked + skippable, ""},
		"blocks that depend":     {string(nixtest.LZ4Linked([]byte("content"))), ""},
		"no end mark":            {unchecked[:len(unchecked)-4], ""},
		"no checksum at the end": {checked[:len(checked)-4], ""},
		"neither":                {checked[:len(checked)-8], ""},
		"another magic number":   {checked + "\x60" + skippable[1:], ""},
		"only skippable":         {skippable, ""},
		"an empty block":         {header + "\x00\x00\x00\x80" + unchecked[7:], ""},
		"a block of nothing":     {header + "\x01\x00\x00\x00\x00" + unchecked[7:], ""},
		"legacy":                 {lz4Frame("content", lz4.LegacyOption(true)), ""},
	} {
		got, err := decode([]byte(test.file), nix.CompressionLZ4)
		if string(got) != test.want && test.want != "" || (err == nil) != (test.want != "") {
			t.Errorf("%s: %q, %v; want %q", name, got, err, test.want)
		}
	}
}

// lzipOf is a member with so large a dictionary announced.
func lzipOf(data string, dictBits byte) []byte {
	member := nixtest.Lzip([]byte(data + data))
	if data != "" {
		member = member[:len(member)/2]
	}
	member[5] = dictBits
	return member
}

func TestLzipMembers(t *testing.T) {
	const bits64M, bits4K = 26, 12
	empty, one := lzipOf("", bits64M), lzipOf("x", bits64M)
	for name, test := range map[string]struct {
		file []byte
		want string
		err  error
	}{
		"nothing":             {empty, "", nil},
		"one":                 {one, "x", nil},
		"many":                {bytes.Repeat(lzipOf("x", bits4K), 1000), strings.Repeat("x", 1000), nil},
		"empty, and one more": {append(bytes.Clone(empty), one...), "", errLzipEmpty},
		"one, and an empty":   {append(lzipOf("x", bits4K), lzipOf("", bits4K)...), "x", errLzipEmpty},
		"all empty":           {bytes.Repeat(empty, 1000), "", errLzipEmpty},
		"dictionaries":        {bytes.Repeat(one, 1000), "x", errLzipDicts},
	} {
		got, err := decode(test.file, nix.CompressionLzip)
		if string(got) != test.want || err != test.err {
			t.Errorf("%s: %.20q, %v; want %.20q, %v", name, got, err, test.want, test.err)
		}
	}
}

// TestLzipBombs: large dictionaries for next to nothing are not allocated again
// and again.
func TestLzipBombs(t *testing.T) {
	for _, data := range []string{"", "x"} {
		file := bytes.Repeat(lzipOf(data, 26), 1000)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := decode(file, nix.CompressionLzip)
		runtime.ReadMemStats(&after)
		if allocated := after.TotalAlloc - before.TotalAlloc; err == nil || allocated > 2*maxLzipDict {
			t.Errorf("members of %q: %d MiB allocated, %v", data, allocated>>20, err)
		}
	}
}

func TestLzipTrailer(t *testing.T) {
	file := lzipOf("content", 16)
	for back := 1; back <= lzipTrailer; back++ {
		wrong := bytes.Clone(file)
		wrong[len(wrong)-back]++
		if _, err := decode(wrong, nix.CompressionLzip); err != errLzipTrailer {
			t.Errorf("%d bytes from the end: %v, want %v", back, err, errLzipTrailer)
		}
	}
}

// TestPadding: what is there for nothing is read as encoders write it, and no more.
func TestPadding(t *testing.T) {
	skippable := func(size uint32) string {
		return "\x50\x2a\x4d\x18" + string(binary.LittleEndian.AppendUint32(nil, size)) + strings.Repeat("x", int(size))
	}
	zstd, xz, gzip := string(nixtest.Zstd([]byte("content"))), string(nixtest.XZ([]byte("content"))), string(nixtest.Gzip([]byte("content")))
	noZstd, noXZ, noGzip := string(nixtest.Zstd(nil)), string(nixtest.XZ(nil)), string(nixtest.Gzip(nil))
	for name, test := range map[string]struct {
		c    nix.Compression
		file string
		err  error
	}{
		"zstd, frames of pzstd":     {nix.CompressionZstd, strings.Repeat(skippable(4)+zstd, 10_000), nil},
		"zstd, a skippable frame":   {nix.CompressionZstd, zstd + skippable(60_000), nil},
		"zstd, a large one":         {nix.CompressionZstd, skippable(66_000) + zstd, errZstdPadding},
		"zstd, many of them":        {nix.CompressionZstd, zstd + strings.Repeat(skippable(0), 10_000), errZstdPadding},
		"zstd, an empty frame":      {nix.CompressionZstd, noZstd + zstd + noZstd, nil},
		"zstd, many of them, empty": {nix.CompressionZstd, zstd + strings.Repeat(noZstd, 10_000), errZstdPadding},
		"zstd, many empty blocks":   {nix.CompressionZstd, zstd[:6] + strings.Repeat("\x00\x00\x00", 30_000) + zstd[6:], errZstdPadding},
		"xz, padded":                {nix.CompressionXZ, xz + strings.Repeat("\x00", 512) + xz + strings.Repeat("\x00", 60_000), nil},
		"xz, padded much":           {nix.CompressionXZ, xz + strings.Repeat("\x00", 68_000), errXZPadding},
		"xz, an empty stream":       {nix.CompressionXZ, noXZ + xz + noXZ, nil},
		"xz, many of them":          {nix.CompressionXZ, xz + strings.Repeat(noXZ, 10_000), errXZPadding},
		"xz, many of them first":    {nix.CompressionXZ, strings.Repeat(noXZ, 10_000) + xz, errXZPadding},
		"xz, many streams":          {nix.CompressionXZ, strings.Repeat(xz, 10_000), nil},
		"xz, empty blocks":          {nix.CompressionXZ, xz + xzEmptyBlocks(100), nil},
		"xz, many of them, empty":   {nix.CompressionXZ, xz + xzEmptyBlocks(10_000), errXZPadding},
		"gzip, an empty member":     {nix.CompressionGzip, noGzip + gzip + noGzip, nil},
		"gzip, many of them":        {nix.CompressionGzip, gzip + strings.Repeat(noGzip, 10_000), errGzipPadding},
	} {
		got, err := decode([]byte(test.file), test.c)
		if !errors.Is(err, test.err) || err == nil && strings.ReplaceAll(string(got), "content", "") != "" {
			t.Errorf("%s: %d bytes, %v; want %v", name, len(got), err, test.err)
		}
	}
}

// xzEmptyBlocks returns a stream of so many blocks with nothing in them.
func xzEmptyBlocks(n int) string {
	withCRC := func(b string) string {
		return b + string(binary.LittleEndian.AppendUint32(nil, crc32.ChecksumIEEE([]byte(b))))
	}
	const flags = "\x00\x01" // a CRC32 behind each block
	block := withCRC("\x02\x00\x21\x01\x16\x00\x00\x00") + "\x00\x00\x00\x00" + "\x00\x00\x00\x00"
	const unpadded, uncompressed = "\x11", "\x00" // sizes: header, a byte and the check; nothing
	index := "\x00" + string(binary.AppendUvarint(nil, uint64(n))) + strings.Repeat(unpadded+uncompressed, n)
	index = withCRC(index + strings.Repeat("\x00", -len(index)&3))
	size := string(binary.LittleEndian.AppendUint32(nil, uint32(len(index)/4-1)))
	footer := withCRC(size + flags)
	return "\xfd7zXZ\x00" + withCRC(flags)[:6] + strings.Repeat(block, n) + index + footer[6:] + footer[:6] + "YZ"
}

func TestGzipMembers(t *testing.T) {
	one := nixtest.Gzip([]byte("content"))
	two := append(bytes.Clone(one), one...)
	if got, err := decode(two, nix.CompressionGzip); err != nil || string(got) != "contentcontent" {
		t.Errorf("%q, %v", got, err)
	}
	two[len(one)+3] |= 0x20
	if got, err := decode(two, nix.CompressionGzip); err != errGzipFlags {
		t.Errorf("%q, %v; want %v", got, err, errGzipFlags)
	}
}

func TestTrailingBytes(t *testing.T) {
	bzip2, err := hex.DecodeString("425a6839314159265359518c7c410003e7c18000100a01840020005060026a90d36a419520ca9076a41b520f54836a907c5dc914e142414631f104")
	if err != nil {
		t.Fatal(err)
	}
	files := map[nix.Compression][]byte{nix.CompressionBzip2: bzip2}
	for c, compress := range nixtest.Compressors {
		files[c] = compress([]byte("content"))
	}
	for c, file := range files {
		for n := 1; n < 4; n++ {
			for _, more := range []string{"\x00\x00\x00", "garbage", string(file)} {
				t.Run(fmt.Sprintf("%s, %q", c, more[:n]), func(t *testing.T) {
					if got, err := decode(append(bytes.Clone(file), more[:n]...), c); err == nil {
						t.Errorf("%q", got)
					}
				})
			}
		}
	}
}
