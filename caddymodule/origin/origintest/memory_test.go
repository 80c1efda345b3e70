package origintest_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"testing/synctest"

	"github.com/stevedores-org/nix-cache/caddymodule/origin"
	"github.com/stevedores-org/nix-cache/caddymodule/origin/origintest"
)

func read(t *testing.T, o origin.Origin, path string, opts origin.OpenOptions) ([]byte, error) {
	t.Helper()
	_, body, err := o.Open(t.Context(), path, opts)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	return io.ReadAll(body)
}

func TestMemoryCountsOperations(t *testing.T) {
	mem := origintest.NewMemory()
	mem.Put("a", []byte("aa"))
	mem.Put("b", []byte("bb"))
	for _, path := range []string{"a", "a", "b", "missing"} {
		read(t, mem, path, origin.OpenOptions{})
	}
	if n := mem.Ops("open"); n != 4 {
		t.Errorf(`Ops("open") = %d, want 4`, n)
	}
	if n := mem.Ops("open", "a", "missing"); n != 3 {
		t.Errorf(`Ops("open", "a", "missing") = %d, want 3`, n)
	}
	if n := mem.Ops("stat"); n != 0 {
		t.Errorf(`Ops("stat") = %d, want 0`, n)
	}
	mem.ResetOps()
	if n := mem.Ops("open"); n != 0 {
		t.Errorf(`Ops("open") = %d after ResetOps`, n)
	}
}

func TestMemoryHookRefuses(t *testing.T) {
	mem := origintest.NewMemory()
	mem.Put("a", []byte("aa"))
	mem.OnOpen(func(path string, _ origin.OpenOptions) error { return origintest.TimedOut("open", path) })
	_, err := read(t, mem, "a", origin.OpenOptions{})
	var unavailable *origin.UnavailableError
	if !errors.As(err, &unavailable) || !unavailable.Timeout {
		t.Errorf("Open = %v, want a timeout", err)
	}
	mem.OnOpen(nil)
	if _, err := read(t, mem, "a", origin.OpenOptions{}); err != nil {
		t.Errorf("Open after the hook was removed = %v", err)
	}
}

func TestMemoryHookChangesObjectBetweenReads(t *testing.T) {
	mem := origintest.NewMemory()
	info := mem.Put("a", []byte("old"))
	mem.OnOpen(func(path string, opts origin.OpenOptions) error {
		if opts.IfMatch != "" {
			mem.Put(path, []byte("new"))
		}
		return nil
	})
	_, err := read(t, mem, "a", origin.OpenOptions{IfMatch: info.ETag})
	if !errors.Is(err, origin.ErrChanged) {
		t.Errorf("Open = %v, want ErrChanged", err)
	}
}

func TestMemoryCommittedButLost(t *testing.T) {
	mem := origintest.NewMemory()
	mem.OnCommitted(func(path string) error { return origintest.Unavailable("commit", path) })
	s, err := mem.Create(t.Context(), "a", origin.CreateOptions{Size: -1})
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(s, "data")
	if err := s.Commit(); !errors.Is(err, origintest.ErrInjected) {
		t.Errorf("Commit = %v, want the injected fault", err)
	}
	if data, _ := mem.Get("a"); string(data) != "data" {
		t.Errorf("stored %q, want %q", data, "data")
	}
}

func TestMemorySpoiltBodies(t *testing.T) {
	mem := origintest.NewMemory()
	mem.Put("a", []byte("0123456789"))

	mem.CutBody("a", 3, 1)
	got, err := read(t, mem, "a", origin.OpenOptions{Offset: 2})
	if string(got) != "234" || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("cut body = %q, %v", got, err)
	}
	mem.FlipByte("a", 4, 1)
	got, err = read(t, mem, "a", origin.OpenOptions{Offset: 3, Length: 3})
	if want := []byte{'3', '4' ^ 0xff, '5'}; !bytes.Equal(got, want) || err != nil {
		t.Errorf("flipped body = %q, %v; want %q", got, err, want)
	}
	if got, err = read(t, mem, "a", origin.OpenOptions{}); string(got) != "0123456789" || err != nil {
		t.Errorf("body after the faults = %q, %v", got, err)
	}
}

func TestMemoryHoldBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := origintest.NewMemory()
		mem.Put("a", []byte("0123456789"))
		gate := mem.HoldBody("a", 4)
		_, body, err := mem.Open(t.Context(), "a", origin.OpenOptions{})
		if err != nil {
			t.Fatal(err)
		}
		r, w := io.Pipe()
		go func() {
			_, err := io.Copy(w, body)
			w.CloseWithError(err)
		}()
		head := make([]byte, 4)
		if _, err := io.ReadFull(r, head); err != nil || string(head) != "0123" {
			t.Fatalf("head = %q, %v", head, err)
		}
		<-gate.Reached()
		synctest.Wait()
		gate.Release()
		if tail, err := io.ReadAll(r); err != nil || string(tail) != "456789" {
			t.Errorf("tail = %q, %v", tail, err)
		}
	})
}

func TestMemoryHoldObeysContext(t *testing.T) {
	mem := origintest.NewMemory()
	gate := mem.Hold("stat", "")
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-gate.Reached()
		cancel()
	}()
	if _, err := mem.Stat(ctx, "a"); !errors.Is(err, context.Canceled) {
		t.Errorf("Stat = %v, want context.Canceled", err)
	}
}

func TestMemoryConforms(t *testing.T) {
	origintest.Run(t, func(*testing.T) origin.Origin { return origintest.NewMemory() })
}
