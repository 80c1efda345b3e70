package upload

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/stevedores-org/nix-cache/caddymodule/internal/content"
	"github.com/stevedores-org/nix-cache/caddymodule/nix"
	"github.com/stevedores-org/nix-cache/caddymodule/nix/nixtest"
	"github.com/stevedores-org/nix-cache/caddymodule/origin"
)

// compressors are nixtest's, and none.
var compressors = func() map[nix.Compression]func([]byte) []byte {
	compressors := maps.Clone(nixtest.Compressors)
	compressors[nix.CompressionNone] = bytes.Clone
	return compressors
}()

// TestContentIsMeasuredOnTheWay: a push in order costs no reading back, and one
// whose NAR came earlier costs it once.
func TestContentIsMeasuredOnTheWay(t *testing.T) {
	for c, compress := range compressors {
		t.Run(c.String(), func(t *testing.T) {
			r, m := newReceiver()
			p := nixtest.NewPackage("hello", 300_000, nixtest.Compressed(c, compress), nixtest.SignedBy(key1))
			wantOutcome(t, r, p.NARInfo.NARPath(), announced(p.File), Stored)
			m.ResetOps()
			wantOutcome(t, r, infoPath(p), announced(p.Text()), Stored)
			wantOps(t, m, "stat 1 create 1 commit 1")

			later, m2 := newReceiver()
			push(t, m2, p)
			wantOutcome(t, later, infoPath(p), announced(p.Text()), Stored)
			if want := map[bool]int{true: 0, false: 1}[c == nix.CompressionNone]; m2.Ops("open") != want {
				t.Errorf("%d NARs read back, want %d", m2.Ops("open"), want)
			}
		})
	}
}

// TestContentThatIsNotMeasuredOnTheWay: what would take much memory is measured
// when the signed narinfo comes.
func TestContentThatIsNotMeasuredOnTheWay(t *testing.T) {
	measuredLater := func(t *testing.T, p nixtest.Package) {
		t.Helper()
		r, m := newReceiver()
		wantOutcome(t, r, p.NARInfo.NARPath(), announced(p.File), Stored)
		wantOutcome(t, r, infoPath(p), announced(p.Text()), Stored)
		if m.Ops("open") != 1 {
			t.Errorf("%d NARs read back, want 1", m.Ops("open"))
		}
	}
	t.Run("a large window", func(t *testing.T) {
		wide := func(nar []byte) []byte {
			return nixtest.Encode(nar, func(w io.Writer) (io.WriteCloser, error) {
				return zstd.NewWriter(w, zstd.WithWindowSize(2*unaskedWindow))
			})
		}
		measuredLater(t, nixtest.NewPackage("hello", 300_000, nixtest.Compressed(nix.CompressionZstd, wide), nixtest.SignedBy(key1)))
	})
	t.Run("no place", func(t *testing.T) {
		p := nixtest.NewPackage("hello", 300_000, nixtest.Compressed(nix.CompressionXZ, nixtest.XZ), nixtest.SignedBy(key1))
		release := takeUnaskedPlaces(t, p)
		defer release()
		measuredLater(t, p)
	})
}

// takeUnaskedPlaces begins as many uploads as are measured on the way at a time.
func takeUnaskedPlaces(t *testing.T, p nixtest.Package) (release func()) {
	var uploads sync.WaitGroup
	var clients []*io.PipeWriter
	r, _ := newReceiver()
	for range cap(unaskedPlaces) {
		body, client := io.Pipe()
		clients = append(clients, client)
		uploads.Go(func() { r.Receive(t.Context(), p.NARInfo.NARPath(), Body{Reader: body, Size: -1}) })
	}
	for len(unaskedPlaces) < cap(unaskedPlaces) {
		runtime.Gosched()
	}
	return func() {
		for _, client := range clients {
			client.CloseWithError(io.ErrUnexpectedEOF)
		}
		uploads.Wait()
	}
}

func TestContentThatWasNotSigned(t *testing.T) {
	other := signed("other", 300_000)
	for name, spoil := range map[string]func(nar []byte) []byte{
		"another NAR": func([]byte) []byte { return other.NAR },
		"a bit":       func(nar []byte) []byte { nar[len(nar)/2] ^= 1; return nar },
		"more":        func(nar []byte) []byte { return append(nar, 0) },
		"less":        func(nar []byte) []byte { return nar[1:] },
		"nothing":     func([]byte) []byte { return nil },
		"a bomb":      func([]byte) []byte { return make([]byte, 1<<20) },
	} {
		for c, compress := range compressors {
			if c == nix.CompressionNone {
				continue // then the narinfo shows it
			}
			t.Run(name+" "+c.String(), func(t *testing.T) {
				p := nixtest.NewPackage("hello", 300_000, nixtest.SignedBy(key1), nixtest.Compressed(c, func(nar []byte) []byte { return compress(spoil(nar)) }))
				measured, _ := newReceiver()
				measured.MaxSize = 4 << 20
				wantOutcome(t, measured, p.NARInfo.NARPath(), announced(p.File), Stored)
				wantRejected(t, measured, infoPath(p), announced(p.Text()), Mismatch)

				later, m := newReceiver()
				wantRejected(t, later, infoPath(p), push(t, m, p), Mismatch)
			})
		}
	}
}

// TestTheSameBytesUnderAnotherSuffix: what a file is decompressed depends on how
// clients are told to do it, whatever was measured of it before.
func TestTheSameBytesUnderAnotherSuffix(t *testing.T) {
	for right, compress := range compressors {
		for wrong := range compressors {
			if right == wrong || right == nix.CompressionNone || wrong == nix.CompressionNone {
				continue
			}
			t.Run(fmt.Sprintf("%s as %s", right, wrong), func(t *testing.T) {
				r, _ := newReceiver()
				p := nixtest.NewPackage("hello", 1000, nixtest.SignedBy(key1), nixtest.Compressed(right, compress))
				wantOutcome(t, r, p.NARInfo.NARPath(), announced(p.File), Stored)
				p.NARInfo.Compression = wrong
				wantOutcome(t, r, p.NARInfo.NARPath(), announced(p.File), Stored)
				wantRejected(t, r, infoPath(p), announced(p.Text()), Mismatch)
				p.NARInfo.Compression = right
				wantOutcome(t, r, infoPath(p), announced(p.Text()), Stored)
			})
		}
	}
}

func TestFilesThatCanNotBeDecompressed(t *testing.T) {
	garbage := make([]byte, 1<<20)
	for i := range garbage {
		garbage[i] = byte(rand.N(256))
	}
	for c, compress := range compressors {
		if c == nix.CompressionNone {
			continue
		}
		for name, file := range map[string]func([]byte) []byte{
			"garbage":  func([]byte) []byte { return garbage },
			"as it is": func(nar []byte) []byte { return nar },
			"cut off":  func(nar []byte) []byte { z := compress(nar); return z[:len(z)*9/10] },
		} {
			t.Run(name+" "+c.String(), func(t *testing.T) {
				p := nixtest.NewPackage("hello", 300_000, nixtest.SignedBy(key1), nixtest.Compressed(c, file))
				r, _ := newReceiver()
				wantOutcome(t, r, p.NARInfo.NARPath(), announced(p.File), Stored) // it is what its name says
				wantRejected(t, r, infoPath(p), announced(p.Text()), Mismatch)
			})
		}
	}
}

func TestOriginFailsWhileContentIsMeasured(t *testing.T) {
	r, m := newReceiver()
	p := nixtest.NewPackage("hello", 300_000, nixtest.SignedBy(key1), nixtest.Compressed(nix.CompressionZstd, nixtest.Zstd))
	body := push(t, m, p)
	m.CutBody(p.NARInfo.URL(), 1000, 1)
	_, err := r.Receive(t.Context(), infoPath(p), body)
	var rejected *RejectedError
	if err == nil || errors.As(err, &rejected) {
		t.Errorf("Receive: %v, want the origin's failure", err)
	}
	wantOutcome(t, r, infoPath(p), announced(p.Text()), Stored)
}

// TestNARGoesBeforeItIsMeasured: it was there a moment ago.
func TestNARGoesBeforeItIsMeasured(t *testing.T) {
	r, m := newReceiver()
	p := nixtest.NewPackage("hello", 1000, nixtest.SignedBy(key1), nixtest.Compressed(nix.CompressionZstd, nixtest.Zstd))
	body := push(t, m, p)
	m.OnOpen(func(path string, _ origin.OpenOptions) error {
		if path == p.NARInfo.URL() {
			return fs.ErrNotExist
		}
		return nil
	})
	wantRejected(t, r, infoPath(p), body, NARMissing)
}

// TestAFileIsReadOnce: whatever narinfos claim of it, one after the other or all at
// once.
func TestAFileIsReadOnce(t *testing.T) {
	zeros := make([]byte, 1<<20)
	for name, file := range map[string][]byte{
		"another NAR": nixtest.Zstd(make([]byte, 5000)),
		"garbage":     []byte("garbage"),
		"cut off":     nixtest.Zstd(zeros)[:20],
		"a bomb":      bytes.Repeat(nixtest.Zstd(zeros), 2*unaskedSize>>20),
	} {
		t.Run(name, func(t *testing.T) {
			r, m := newReceiver()
			claims := make([]nixtest.Package, 8)
			for i := range claims {
				claims[i] = nixtest.NewPackage(fmt.Sprint("hello-", i), 100+10_000*i, nixtest.SignedBy(key1),
					nixtest.Compressed(nix.CompressionZstd, func([]byte) []byte { return file }))
			}
			push(t, m, claims[0])
			var uploads sync.WaitGroup
			for range 2 {
				for _, p := range claims {
					uploads.Go(func() {
						_, err := r.Receive(t.Context(), infoPath(p), announced(p.Text()))
						if rejected, ok := errors.AsType[*RejectedError](err); !ok || rejected.Reason != Mismatch {
							t.Errorf("%v, want a mismatch", err)
						}
					})
				}
				uploads.Wait()
			}
			if got := m.Ops("open"); got != 1 {
				t.Errorf("the NAR was read %d times", got)
			}
		})
	}
}

// TestMeasuringIsShared: who has many large files measured doesn't keep another's
// waiting.
func TestMeasuringIsShared(t *testing.T) {
	r, m := newReceiver()
	zstd := func(name string) (nixtest.Package, Body) {
		p := nixtest.NewPackage(name, 1000, nixtest.Compressed(nix.CompressionZstd, nixtest.Zstd), nixtest.SignedBy(key1))
		return p, push(t, m, p)
	}
	other, others := zstd("other")
	others.From = "other"
	held, release := make(chan struct{}, 10), make(chan struct{})
	m.OnOpen(func(path string, _ origin.OpenOptions) error {
		if path != other.NARInfo.URL() {
			held <- struct{}{}
			<-release
		}
		return nil
	})
	var uploads sync.WaitGroup
	for i := range cap(held) {
		p, body := zstd(fmt.Sprint("many-", i))
		body.From = "greedy"
		uploads.Go(func() { r.Receive(t.Context(), infoPath(p), body) })
	}
	for range 3 {
		<-held
	}
	wantOutcome(t, r, infoPath(other), others, Stored)
	close(release)
	uploads.Wait()
}

func TestContentsAreBounded(t *testing.T) {
	var c contents
	for i := range 2 * maxContents {
		var hash nix.SHA256
		binary.LittleEndian.PutUint64(hash[:], uint64(i))
		path := nix.NARPath(hash, nix.CompressionXZ)
		got := measurement{content: content.Content{Size: int64(i)}}
		c.add(path, got)
		c.add(path, got)
		if known, ok := c.get(path); !ok || known != got {
			t.Fatalf("%d is not remembered", i)
		}
	}
	if len(c.mu.known) != maxContents || len(c.mu.order) != maxContents {
		t.Errorf("%d remembered, %d in order; want %d", len(c.mu.known), len(c.mu.order), maxContents)
	}
}

// TestWhatNobodyAskedFor: an uploader can't have a small file decompressed to
// much before a trusted key has signed that it is so large.
func TestWhatNobodyAskedFor(t *testing.T) {
	const size = unaskedSize + 8<<20
	for c, file := range map[nix.Compression][]byte{
		nix.CompressionBzip2: bytes.Repeat(nixtest.Bzip2OfZeros(), size>>20),
		nix.CompressionZstd:  bytes.Repeat(nixtest.Zstd(make([]byte, 1<<20)), size>>20),
	} {
		t.Run(c.String(), func(t *testing.T) {
			r, m := newReceiver()
			p := nixtest.NewPackage("hello", 1000, nixtest.Compressed(c, func([]byte) []byte { return file }), nixtest.SignedBy(key1))
			wantOutcome(t, r, p.NARInfo.NARPath(), announced(file), Stored)
			if got, _ := r.contents.get(p.NARInfo.NARPath()); got.err == nil {
				t.Errorf("it was decompressed to its end, %d bytes", got.content.Size)
			}
			wantRejected(t, r, infoPath(p), announced(p.Text()), Mismatch)

			p.NARInfo.NARSize, p.NARInfo.NARHash = size, sha256.Sum256(make([]byte, size))
			p.NARInfo.Signatures = []nix.Signature{key1.Sign(p.NARInfo)}
			m.ResetOps()
			wantOutcome(t, r, infoPath(p), announced(p.Text()), Stored)
			wantOps(t, m, "stat 1 open 1 create 1 commit 1")
		})
	}
}
