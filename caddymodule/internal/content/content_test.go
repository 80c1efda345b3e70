package content

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/stevedores-org/nix-cache/caddymodule/internal/decompress"
	"github.com/stevedores-org/nix-cache/caddymodule/nix"
	"github.com/stevedores-org/nix-cache/caddymodule/nix/nixtest"
)

func atMost(limit int64) func(int64) error {
	return func(size int64) error {
		if size > limit {
			return ErrTooLong
		}
		return nil
	}
}

func TestMeasureBzip2(t *testing.T) {
	file, err := hex.DecodeString("425a6839314159265359518c7c410003e7c18000100a01840020005060026a90d36a419520ca9076a41b520f54836a907c5dc914e142414631f104")
	if err != nil {
		t.Fatal(err)
	}
	want, err := Measure(t.Context(), strings.NewReader(strings.Repeat("content\n", 1000)), nix.CompressionNone, decompress.MaxWindow, atMost(8000))
	if err != nil {
		t.Fatal(err)
	}
	got, err := Measure(t.Context(), bytes.NewReader(file), nix.CompressionBzip2, decompress.MaxWindow, atMost(8000))
	if err != nil || got != want || got.Size != 8000 {
		t.Errorf("measured %v, %v; want %v", got, err, want)
	}
	if _, err := Measure(t.Context(), bytes.NewReader(file), nix.CompressionBzip2, decompress.MaxWindow, atMost(7999)); !errors.Is(err, ErrTooLong) {
		t.Errorf("measured to a limit: %v, want ErrTooLong", err)
	}
}

// TestMismatch: a narinfo and a file that don't belong together are told apart,
// with a reason that says which is wrong.
func TestMismatch(t *testing.T) {
	for c, compress := range nixtest.Compressors {
		for _, test := range []struct {
			name   string
			change func(p *nixtest.Package)
			want   string
		}{
			{"right", func(*nixtest.Package) {}, ""},
			{"decompresses to more", func(p *nixtest.Package) { p.NARInfo.NARSize-- }, "decompresses to more"},
			{"decompresses to less", func(p *nixtest.Package) { p.NARInfo.NARSize++ }, "decompresses to 1"},
			{"another NAR", func(p *nixtest.Package) { p.File = compress(nixtest.NewPackage("other", 1000).NAR) }, "NarHash is sha256:"},
			{"not compressed", func(p *nixtest.Package) { p.File = p.NAR }, "can't be decompressed as " + c.String()},
			{"cut off", func(p *nixtest.Package) { p.File = p.File[:len(p.File)*3/4] }, "can't be decompressed as " + c.String()},
		} {
			t.Run(c.String()+", "+test.name, func(t *testing.T) {
				p := nixtest.NewPackage("hello", 1000, nixtest.Compressed(c, compress))
				test.change(&p)
				got, err := MeasureFor(t.Context(), p.NARInfo, bytes.NewReader(p.File))
				wrong := Mismatch(p.NARInfo, got, err)
				if !strings.Contains(wrong, test.want) || (test.want == "") != (wrong == "") {
					t.Errorf("%q, want %q", wrong, test.want)
				}
			})
		}
	}
}

func TestMeasureForEndsWithTheContext(t *testing.T) {
	p := nixtest.NewPackage("hello", 1000)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := MeasureFor(ctx, p.NARInfo, bytes.NewReader(p.File)); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want it canceled", err)
	}
}

// FuzzMeasure: whatever a file holds, measuring it ends, within its limit.
func FuzzMeasure(f *testing.F) {
	for c, compress := range nixtest.Compressors {
		f.Add(byte(c), compress([]byte(strings.Repeat("content\n", 100))))
	}
	f.Fuzz(func(t *testing.T, c byte, file []byte) {
		const limit = 1 << 20
		if got, err := Measure(t.Context(), io.LimitReader(bytes.NewReader(file), limit), nix.Compression(c), decompress.MaxWindow, atMost(limit)); err == nil && got.Size > limit {
			t.Errorf("%d bytes, more than the limit", got.Size)
		}
	})
}

// cancelling repeats what decodes to nothing, for ever, and cancels after a while.
type cancelling struct {
	frame  string
	cancel func()
	reads  int
}

func (c *cancelling) Read(p []byte) (int, error) {
	const enough = 100
	if c.reads++; c.reads == enough {
		c.cancel()
	}
	n := 0
	for n+len(c.frame) <= len(p) {
		n += copy(p[n:], c.frame)
	}
	return n, nil
}

// TestMeasureForEndsInTheMidstOfNothing: a decoder that reads and reads, and has
// nothing come out of it, ends with the context.
func TestMeasureForEndsInTheMidstOfNothing(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	const emptyBzip2 = "BZh9\x17\x72\x45\x38\x50\x90\x00\x00\x00\x00" // others are held to some padding
	endless := &cancelling{frame: emptyBzip2, cancel: cancel}
	p := nixtest.NewPackage("hello", 1000)
	p.NARInfo.Compression = nix.CompressionBzip2
	_, err := MeasureFor(ctx, p.NARInfo, endless)
	if err != context.Canceled || endless.reads < 100 || endless.reads > 101 {
		t.Errorf("%v after %d reads, want it canceled", err, endless.reads)
	}
}
