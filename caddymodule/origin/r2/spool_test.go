package r2_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"golang.org/x/sys/unix"

	"github.com/stevedores-org/nix-cache/caddymodule/origin"
	"github.com/stevedores-org/nix-cache/caddymodule/origin/r2"
)

// fullAfter is a SpoolRoom that has so many bytes.
func fullAfter(n int64) func(int64) (func(), error) {
	var taken atomic.Int64
	return func(more int64) (func(), error) {
		if taken.Add(more) > n {
			taken.Add(-more)
			return nil, unix.ENOSPC
		}
		return func() { taken.Add(-more) }, nil
	}
}

// TestUploadsOnAFullDisk: however little room they have, all uploads end, since
// one at a time has enough for a whole part.
func TestUploadsOnAFullDisk(t *testing.T) {
	const part, memory = r2.MinPartSize, 7 << 20
	for _, room := range []int64{0, 1 << 20, 9 << 20} {
		t.Run(fmt.Sprint(room), func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				s := &multipart{}
				s.mu.parts = make(map[string]int)
				config := smallParts()
				config.SpoolDir, config.SpoolMemory, config.SpoolRoom = dir, memory, fullAfter(room)
				b := serve(t, config, s.ServeHTTP)
				data := testData(2*part + 100)
				var uploads sync.WaitGroup
				for i := range 12 {
					uploads.Go(func() {
						staged, err := b.Create(t.Context(), fmt.Sprint("nar/", i), origin.CreateOptions{Size: -1})
						if err != nil {
							t.Error(err)
							return
						}
						for rest := data; len(rest) > 0; {
							n := min(300_000, len(rest)) // so that all have a part of a part
							if _, err := staged.Write(rest[:n]); err != nil {
								t.Error(err)
							}
							rest = rest[n:]
							if used, _ := b.SpoolBytes(); used > memory+part {
								t.Errorf("%d bytes of memory are taken, want %d at most", used, memory+part)
							}
						}
						if err := staged.Commit(); err != nil {
							t.Error(err)
						}
					})
				}
				uploads.Wait()
				if memory, disk := b.SpoolBytes(); memory+disk != 0 {
					t.Errorf("%d bytes of memory and %d of disk are still taken", memory, disk)
				}
			})
		})
	}
}

// TestDiskFillsUnderAnUpload: what is in the file stays there, what comes is in
// memory, and what is sent is all of it.
func TestDiskFillsUnderAnUpload(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s := newStore()
		config := smallParts()
		config.SpoolDir, config.SpoolMemory, config.SpoolRoom = dir, 3<<20, fullAfter(4<<20)
		b := serve(t, config, s.ServeHTTP)
		data := testData(r2.MinPartSize)
		staged, err := b.Create(t.Context(), "nar/a", origin.CreateOptions{Size: -1})
		if err != nil {
			t.Fatal(err)
		}
		other, err := b.Create(t.Context(), "nar/b", origin.CreateOptions{Size: -1})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := other.Write(data[:3<<20]); err != nil { // all memory
			t.Fatal(err)
		}
		if _, err := staged.Write(data[:4<<20]); err != nil {
			t.Fatal(err)
		}
		if memory, disk := b.SpoolBytes(); memory != 3<<20 || disk != 4<<20 {
			t.Errorf("%d bytes of memory and %d of disk are taken", memory, disk)
		}
		if _, err := staged.Write(data[4<<20:]); err != nil {
			t.Fatal(err)
		}
		if err := staged.Commit(); err != nil {
			t.Error(err)
		}
		if !bytes.Equal(s.mu.object, data) {
			t.Errorf("the object has %d bytes that are not those written", len(s.mu.object))
		}
		other.Abort()
	})
}

// TestWaitForRoomEndsWithTheUpload.
func TestWaitForRoomEndsWithTheUpload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		config := smallParts()
		config.SpoolMemory, config.SpoolRoom = 1<<20, fullAfter(0)
		b := serve(t, config, newStore().ServeHTTP)
		var open []origin.Staged
		for i := range 2 { // one has all memory, the other the turn
			staged, err := b.Create(t.Context(), fmt.Sprint("nar/", i), origin.CreateOptions{Size: -1})
			if err != nil {
				t.Fatal(err)
			}
			open = append(open, staged)
			if _, err := staged.Write(make([]byte, 1<<20)); err != nil {
				t.Fatal(err)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		third, err := b.Create(ctx, "nar/3", origin.CreateOptions{Size: -1})
		if err != nil {
			t.Fatal(err)
		}
		failed := make(chan error)
		go func() {
			_, err := third.Write([]byte("x"))
			failed <- err
		}()
		synctest.Wait()
		cancel()
		if err := <-failed; !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "memory") {
			t.Errorf("Write: %v", err)
		}
		third.Abort()
		for _, staged := range open {
			if err := staged.Abort(); err != nil {
				t.Error(err)
			}
		}
		if memory, disk := b.SpoolBytes(); memory+disk != 0 {
			t.Errorf("%d bytes of memory and %d of disk are still taken", memory, disk)
		}
	})
}

// TestStalledClientsOnAFullDisk: those that have a turn and send nothing don't
// keep the others from theirs.
func TestStalledClientsOnAFullDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &multipart{}
		s.mu.parts = make(map[string]int)
		config := smallParts()
		config.SpoolMemory, config.SpoolRoom = 1<<20, fullAfter(0)
		b := serve(t, config, s.ServeHTTP)
		for i := range 4 { // one has all memory, three a turn each
			stalled, err := b.Create(t.Context(), fmt.Sprint("nar/", i), origin.CreateOptions{Size: -1})
			if err != nil {
				t.Fatal(err)
			}
			defer stalled.Abort()
			if _, err := stalled.Write(make([]byte, 1<<20)); err != nil {
				t.Fatal(err)
			}
		}
		if err := put(t.Context(), b, testData(3*r2.MinPartSize), origin.CreateOptions{Size: -1}); err != nil {
			t.Error(err)
		}
	})
}
