package cache

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/stevedores-org/nix-cache/caddymodule/nix"
	"github.com/stevedores-org/nix-cache/caddymodule/origin/origintest"
)

// halfFilled is a fill of a file of four parts, and a reader of it that has got a
// part and a half.
type halfFilled struct {
	*bench
	path nix.CachePath
	file []byte // as it should be
	rest []byte // that the reader has still to get
	body io.Reader
	fill *fill
	gate *origintest.Gate

	readOnly *os.File // what the fill writes
}

func newHalfFilled(t *testing.T, from int64) *halfFilled {
	b := newReadyBench(t)
	_, p, pkg := b.put("a", 4*testPart)
	gate := b.origin.HoldBody(p.String(), 2*testPart)
	o := b.open(p)
	const sent = testPart + testPart/2
	if _, err := o.Body.Seek(from, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(io.Discard, o.Body, sent); err != nil {
		t.Fatal(err)
	}
	<-gate.Reached()
	b.cache.mu.Lock()
	fill := b.cache.mu.flights[b.files.key(p)].fill
	b.cache.mu.Unlock()
	readOnly, err := os.Open(fill.file.Name())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { readOnly.Close() })
	return &halfFilled{b, p, pkg.File, pkg.File[from+sent:], o.Body, fill, gate, readOnly}
}

// failDisk has the disk take no more, and the fill go on.
func (h *halfFilled) failDisk() {
	h.Helper()
	defer h.gate.Release()
	if err := unix.Dup3(int(h.readOnly.Fd()), int(h.fill.file.Fd()), 0); err != nil {
		h.Fatal(err)
	}
}

func (h *halfFilled) wantRest() {
	h.Helper()
	if got, err := io.ReadAll(h.body); err != nil || !bytes.Equal(got, h.rest) {
		h.Errorf("%d bytes, %v; want the other %d", len(got), err, len(h.rest))
	}
}

func (h *halfFilled) wantNoEnd() error {
	h.Helper()
	got, err := io.ReadAll(h.body)
	if err == nil || len(got) >= len(h.rest) {
		h.Errorf("%d bytes, %v; want an error before the end", len(got), err)
	}
	return err
}

// TestReaderGoesOnWhenTheDiskFails: it gets the rest from the origin, but not the
// last byte of a whole that is wrong, whichever copy is to blame.
func TestReaderGoesOnWhenTheDiskFails(t *testing.T) {
	for _, from := range []int64{0, 1000} {
		t.Run(fmt.Sprint("from ", from), func(t *testing.T) {
			h := newHalfFilled(t, from)
			h.failDisk()
			h.wantRest()
		})
	}
	t.Run("the origin's copy is damaged", func(t *testing.T) {
		h := newHalfFilled(t, 0)
		h.origin.FlipByte(h.path.String(), 3*testPart, 100)
		h.failDisk()
		var damaged *DamagedError
		if err := h.wantNoEnd(); !errors.As(err, &damaged) {
			t.Errorf("%v, want a DamagedError", err)
		}
		if _, err := h.files.Open(t.Context(), h.path, Wanted{Offset: 10}); !errors.As(err, &damaged) {
			t.Errorf("open: %v, want a DamagedError", err)
		}
	})
	t.Run("the disk's copy is damaged", func(t *testing.T) {
		h := newHalfFilled(t, 0)
		if _, err := h.fill.file.WriteAt([]byte{^h.file[5]}, 5); err != nil {
			t.Fatal(err)
		}
		h.failDisk()
		h.wantNoEnd()
	})
	t.Run("the disk's copy can't be read again", func(t *testing.T) {
		h := newHalfFilled(t, 0)
		if err := h.fill.file.Truncate(100); err != nil {
			t.Fatal(err)
		}
		h.failDisk()
		h.wantNoEnd()
	})
}

// TestTierFileThatCantBeRead: so it is with a file of the tier, whose entry is
// dropped.
func TestTierFileThatCantBeRead(t *testing.T) {
	b := newReadyBench(t)
	_, p, pkg := b.put("a", 3*testPart)
	b.wantGet(p, pkg.File, Miss)
	b.settle()
	for _, from := range []int64{0, 1000} {
		o := b.open(p)
		if err := os.Truncate(o.Body.(*os.File).Name(), testPart+10); err != nil {
			t.Fatal(err)
		}
		b.origin.ResetOps()
		body, err := o.Resume(from, from)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(body); err != nil || !bytes.Equal(got, pkg.File[from:]) {
			t.Errorf("from %d on: %d bytes, %v; want the rest of %d", from, len(got), err, len(pkg.File))
		}
		b.wantOps("open", 1)
		b.wantGet(p, pkg.File, Miss)
		b.settle()
	}
}
