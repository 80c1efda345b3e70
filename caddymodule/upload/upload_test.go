package upload

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stevedores-org/nix-cache/caddymodule/nix"
	"github.com/stevedores-org/nix-cache/caddymodule/nix/nixtest"
	"github.com/stevedores-org/nix-cache/caddymodule/origin"
	"github.com/stevedores-org/nix-cache/caddymodule/origin/origintest"
)

var (
	key1    = nixtest.NewKey("test-1")
	key2    = nixtest.NewKey("test-2")
	foreign = nixtest.NewKey("foreign-1")
)

const maxNAR = 1 << 20

func newReceiver() (*Receiver, *origintest.Memory) {
	m := origintest.NewMemory()
	return &Receiver{
		Origin:      m,
		TrustedKeys: nixtest.Trust(key1, key2),
		MaxSize:     maxNAR,
		Log:         slog.New(slog.DiscardHandler),
	}, m
}

func signed(name string, size int) nixtest.Package {
	return nixtest.NewPackage(name, size, nixtest.SignedBy(key1))
}

func infoPath(p nixtest.Package) nix.CachePath { return nix.NARInfoPath(p.NARInfo.StorePath) }

// announced is a body as most clients send it.
func announced(b []byte) Body { return Body{Reader: bytes.NewReader(b), Size: int64(len(b))} }

// chunked is a body whose size is not known before its end.
func chunked(b []byte) Body { return Body{Reader: bytes.NewReader(b), Size: -1} }

func encoded(encoding string, b []byte) Body {
	body := announced(b)
	body.Encoding = encoding
	return body
}

func wantOutcome(t *testing.T, r *Receiver, path nix.CachePath, body Body, want Outcome) {
	t.Helper()
	if got, err := r.Receive(t.Context(), path, body); err != nil || got != want {
		t.Errorf("Receive(%s) = %q, %v; want %q", path, got, err, want)
	}
}

// wantRejected fails unless the body is refused for that reason, in a line for
// the client's user, and nothing has changed at the origin.
func wantRejected(t *testing.T, r *Receiver, path nix.CachePath, body Body, want Reason) {
	t.Helper()
	m := r.Origin.(*origintest.Memory)
	before, commits := snapshot(m), m.Ops("commit")
	outcome, err := r.Receive(t.Context(), path, body)
	var rejected *RejectedError
	if outcome != "" || !errors.As(err, &rejected) || rejected.Reason != want {
		t.Errorf("Receive(%s) = %q, %v; want a refusal as %s", path, outcome, err, want)
	}
	if err != nil && (len(err.Error()) > 1000 || strings.Contains(err.Error(), "\n")) {
		t.Errorf("not one short line: %q", err)
	}
	if after := snapshot(m); after != before || m.Ops("commit") != commits {
		t.Errorf("refused, but at the origin is now %s\nbefore: %s", after, before)
	}
	wantNothingStaged(t, m)
}

// wantNothingStaged fails unless each file that was begun was ended.
func wantNothingStaged(t *testing.T, m *origintest.Memory) {
	t.Helper()
	if begun, ended := m.Ops("create"), m.Ops("commit")+m.Ops("abort"); ended > begun {
		t.Errorf("%d files were ended, %d begun", ended, begun)
	}
}

func snapshot(m *origintest.Memory) string {
	var b strings.Builder
	for _, path := range m.Paths() {
		data, _ := m.Get(path)
		fmt.Fprintf(&b, "%s %x\n", path, data)
	}
	return b.String()
}

// ops is the operations since the last ResetOps, as "stat 1 create 1".
func ops(m *origintest.Memory) string {
	var counts []string
	for _, method := range []string{"stat", "open", "create", "commit", "abort", "delete", "list"} {
		if n := m.Ops(method); n > 0 {
			counts = append(counts, fmt.Sprint(method, " ", n))
		}
	}
	return strings.Join(counts, " ")
}

func wantOps(t *testing.T, m *origintest.Memory, want string) {
	t.Helper()
	if got := ops(m); got != want {
		t.Errorf("operations at the origin: %s; want %s", got, want)
	}
	m.ResetOps()
}

func wantStored(t *testing.T, m *origintest.Memory, path string, want []byte) {
	t.Helper()
	if got, _ := m.Get(path); !bytes.Equal(got, want) {
		t.Errorf("at %s are %d bytes:\n%.600s\nwant %d:\n%.600s", path, len(got), got, len(want), want)
	}
}

func TestPush(t *testing.T) {
	r, m := newReceiver()
	p := signed("hello", 1000)
	nar, info := p.NARInfo.NARPath(), infoPath(p)

	wantOutcome(t, r, nar, announced(p.File), Stored)
	wantOps(t, m, "stat 1 create 1 commit 1")
	wantOutcome(t, r, nar, announced(p.File), Unchanged)
	wantOps(t, m, "stat 1")
	wantOutcome(t, r, nar, chunked(p.File), Unchanged)
	if m.Ops("commit") > 0 {
		t.Error("a NAR that is there was written again")
	}
	m.ResetOps()

	wantOutcome(t, r, info, announced(p.Text()), Stored)
	wantOps(t, m, "stat 1 create 1 commit 1")
	wantOutcome(t, r, info, announced(p.Text()), Unchanged)
	wantOps(t, m, "stat 1 open 1 create 1 commit 1")

	wantStored(t, m, nar.String(), p.File)
	wantStored(t, m, info.String(), p.Text())
	if got := m.ContentType(nar.String()); got != "application/x-nix-nar" {
		t.Errorf("the NAR's content type is %q", got)
	}
	if got := m.ContentType(info.String()); got != "text/x-nix-narinfo" {
		t.Errorf("the narinfo's content type is %q", got)
	}
}

func TestChunkedPush(t *testing.T) {
	r, m := newReceiver()
	p := signed("hello", 1000)
	wantOutcome(t, r, p.NARInfo.NARPath(), chunked(p.File), Stored)
	wantOutcome(t, r, infoPath(p), chunked(p.Text()), Stored)
	wantStored(t, m, p.NARInfo.URL(), p.File)
}

func TestRejectedNARs(t *testing.T) {
	p := signed("hello", 1000)
	path := p.NARInfo.NARPath()
	flipped := bytes.Clone(p.File)
	flipped[500] ^= 1
	large := nixtest.NewPackage("large", maxNAR)
	broken := func(b []byte) io.Reader {
		return io.MultiReader(bytes.NewReader(b), iotest.ErrReader(io.ErrUnexpectedEOF))
	}
	for _, test := range []struct {
		name string
		path nix.CachePath
		body func() Body
		want Reason
	}{
		{"another hash", path, func() Body { return announced(flipped) }, Mismatch},
		{"another hash, chunked", path, func() Body { return chunked(flipped) }, Mismatch},
		{"empty", path, func() Body { return announced(nil) }, Mismatch},
		{"too short", path, func() Body { return announced(p.File[:999]) }, Mismatch},
		{"too long", path, func() Body { return announced(append(bytes.Clone(p.File), 0)) }, Mismatch},
		{"broken off", path, func() Body { return Body{Reader: broken(p.File[:600]), Size: int64(len(p.File))} }, Incomplete},
		{"broken off, chunked", path, func() Body { return Body{Reader: broken(p.File[:600]), Size: -1} }, Incomplete},
		{"broken off after all", path, func() Body { return Body{Reader: broken(p.File), Size: int64(len(p.File))} }, Incomplete},
		{"larger than the limit", large.NARInfo.NARPath(), func() Body { return announced(large.File) }, TooLarge},
		{"larger than the limit, chunked", large.NARInfo.NARPath(), func() Body { return chunked(large.File) }, TooLarge},
		{"encoded", path, func() Body { return encoded("gzip", p.File) }, Malformed},
		{"no path", nix.CachePath{}, func() Body { return announced(p.File) }, Malformed},
	} {
		for _, before := range []string{"absent", "present"} {
			t.Run(test.name+"/"+before, func(t *testing.T) {
				r, m := newReceiver()
				if before == "present" {
					m.Put(path.String(), p.File)
				}
				wantRejected(t, r, test.path, test.body(), test.want)
			})
		}
	}
}

// TestNothingIsReadInVain: what is too large by its announcement is refused
// before its first byte.
func TestNothingIsReadInVain(t *testing.T) {
	r, m := newReceiver()
	p := signed("hello", 1000)
	unread := iotest.ErrReader(errors.New("read"))
	wantRejected(t, r, p.NARInfo.NARPath(), Body{Reader: unread, Size: maxNAR + 1}, TooLarge)
	wantRejected(t, r, infoPath(p), Body{Reader: unread, Size: nix.MaxNARInfoSize + 1}, TooLarge)
	wantOps(t, m, "")
}

// endless counts what is taken of a body without end.
type endless struct{ taken int64 }

func (e *endless) Read(p []byte) (int, error) {
	e.taken += int64(len(p))
	if e.taken > 64<<20 {
		return 0, errors.New("this goes on for ever")
	}
	return len(p), nil
}

func TestAnEndlessNARIsCutShort(t *testing.T) {
	r, _ := newReceiver()
	body := new(endless)
	wantRejected(t, r, signed("hello", 10).NARInfo.NARPath(), Body{Reader: body, Size: -1}, TooLarge)
	if body.taken > 2*maxNAR {
		t.Errorf("%d bytes were read of a NAR that can have %d", body.taken, maxNAR)
	}
}

func TestTheLargestNAR(t *testing.T) {
	r, _ := newReceiver()
	p := signed("hello", 1000)
	r.MaxSize = int64(len(p.File))
	wantOutcome(t, r, p.NARInfo.NARPath(), chunked(p.File), Stored)
	r.MaxSize--
	r.Origin.(*origintest.Memory).Remove(p.NARInfo.URL())
	wantRejected(t, r, p.NARInfo.NARPath(), chunked(p.File), TooLarge)
	wantRejected(t, r, p.NARInfo.NARPath(), announced(p.File), TooLarge)
}

// push brings the package's NAR in place and returns the body of its narinfo.
func push(t *testing.T, m *origintest.Memory, p nixtest.Package) Body {
	t.Helper()
	m.Put(p.NARInfo.URL(), p.File)
	return announced(p.Text())
}

// TestOriginFailures: whatever step fails, nothing half is stored, the error is
// the origin's, and the same request succeeds later.
func TestOriginFailures(t *testing.T) {
	p := signed("hello", 1000)
	other := nixtest.NewPackage("hello", 1000, nixtest.SignedBy(key2))
	uploads := []struct {
		name   string
		path   nix.CachePath
		body   []byte
		before func(m *origintest.Memory)
		steps  []string
		want   []byte
	}{
		{"NAR", p.NARInfo.NARPath(), p.File, func(*origintest.Memory) {},
			[]string{"stat", "create", "write", "commit", "committed"}, p.File},
		{"narinfo", infoPath(p), p.Text(), func(m *origintest.Memory) { m.Put(p.NARInfo.URL(), p.File) },
			[]string{"stat", "create", "write", "commit", "committed"}, p.Text()},
		{"merge", infoPath(p), p.Text(), func(m *origintest.Memory) {
			m.Put(p.NARInfo.URL(), p.File)
			m.Put(infoPath(p).String(), other.Text())
		}, []string{"stat", "create", "write", "commit", "committed", "open", "body", "second create", "second commit"},
			nixtest.NewPackage("hello", 1000, nixtest.SignedBy(key1), nixtest.SignedBy(key2)).Text()},
	}
	for _, u := range uploads {
		for _, step := range u.steps {
			for _, timeout := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%s/timeout=%v", u.name, step, timeout), func(t *testing.T) {
					r, m := newReceiver()
					u.before(m)
					before := snapshot(m)
					breakStep(m, step, timeout)
					_, err := r.Receive(t.Context(), u.path, announced(u.body))
					var unavailable *origin.UnavailableError
					if !errors.As(err, &unavailable) {
						t.Fatalf("error: %v, want *origin.UnavailableError", err)
					}
					if unavailable.Timeout != timeout && step != "body" {
						t.Errorf("Timeout = %v, want %v", unavailable.Timeout, timeout)
					}
					if step != "committed" && snapshot(m) != before {
						t.Error("the origin has changed")
					}
					mend(m)
					if _, err := r.Receive(t.Context(), u.path, announced(u.body)); err != nil {
						t.Errorf("the retry: %v", err)
					}
					wantStored(t, m, u.path.String(), u.want)
				})
			}
		}
	}
}

func breakStep(m *origintest.Memory, step string, timeout bool) {
	fault := origintest.Unavailable
	if timeout {
		fault = origintest.TimedOut
	}
	times := 0
	second := func(op, path string) error {
		if times++; times < 2 {
			return nil
		}
		return fault(op, path)
	}
	switch step {
	case "stat":
		m.OnStat(func(path string) error { return fault("stat", path) })
	case "open":
		m.OnOpen(func(path string, _ origin.OpenOptions) error { return fault("open", path) })
	case "body":
		m.CutBody("", 100, 1)
	case "create":
		m.OnCreate(func(path string, _ origin.CreateOptions) error { return fault("create", path) })
	case "second create":
		m.OnCreate(func(path string, _ origin.CreateOptions) error { return second("create", path) })
	case "write":
		m.OnWrite(func(path string, _ []byte) error { return fault("create", path) })
	case "commit":
		m.OnCommit(func(path string) error { return fault("commit", path) })
	case "second commit":
		m.OnCommit(func(path string) error { return second("commit", path) })
	case "committed":
		m.OnCommitted(func(path string) error { return fault("commit", path) })
		m.OnOpen(func(path string, _ origin.OpenOptions) error { return nil })
	}
}

func mend(m *origintest.Memory) {
	m.OnStat(nil)
	m.OnOpen(nil)
	m.OnCreate(nil)
	m.OnWrite(nil)
	m.OnCommit(nil)
	m.OnCommitted(nil)
}

// TestOperatorErrorsPass: a refused credential is told as it is.
func TestOperatorErrorsPass(t *testing.T) {
	r, m := newReceiver()
	p := signed("hello", 1000)
	refused := errors.New("access denied")
	m.OnCommit(func(string) error { return refused })
	if _, err := r.Receive(t.Context(), p.NARInfo.NARPath(), announced(p.File)); !errors.Is(err, refused) {
		t.Errorf("NAR: %v", err)
	}
	body := push(t, m, p)
	if _, err := r.Receive(t.Context(), infoPath(p), body); !errors.Is(err, refused) {
		t.Errorf("narinfo: %v", err)
	}
}

func TestCanceledContext(t *testing.T) {
	p := signed("hello", 1000)
	for _, method := range []string{"stat", "create", "commit"} {
		t.Run(method, func(t *testing.T) {
			r, m := newReceiver()
			ctx, cancel := context.WithCancel(t.Context())
			gate := m.Hold(method, "")
			go func() {
				<-gate.Reached()
				cancel()
			}()
			_, err := r.Receive(ctx, p.NARInfo.NARPath(), announced(p.File))
			if !errors.Is(err, context.Canceled) {
				t.Errorf("error: %v, want context.Canceled", err)
			}
			if paths := m.Paths(); len(paths) > 0 {
				t.Errorf("stored: %v", paths)
			}
			gate.Release()
		})
	}
}

func TestCanceledMerge(t *testing.T) {
	r, m := newReceiver()
	p := signed("hello", 1000)
	body := push(t, m, p)
	m.Put(infoPath(p).String(), nixtest.NewPackage("hello", 1000, nixtest.SignedBy(key2)).Text())
	ctx, cancel := context.WithCancel(t.Context())
	gate := m.HoldBody(infoPath(p).String(), 50)
	go func() {
		<-gate.Reached()
		cancel()
	}()
	if _, err := r.Receive(ctx, infoPath(p), body); !errors.Is(err, context.Canceled) {
		t.Errorf("error: %v, want context.Canceled", err)
	}
	gate.Release()
}

func TestConcurrentPushesOfOneNAR(t *testing.T) {
	r, m := newReceiver()
	p := signed("hello", 100_000)
	done := make(chan error)
	const n = 8
	for range n {
		go func() {
			_, err := r.Receive(t.Context(), p.NARInfo.NARPath(), announced(p.File))
			done <- err
		}()
	}
	for range n {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	wantStored(t, m, p.NARInfo.URL(), p.File)
	if !slices.Equal(m.Paths(), []string{p.NARInfo.URL()}) {
		t.Errorf("paths: %v", m.Paths())
	}
}
