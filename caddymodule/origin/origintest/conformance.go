package origintest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"testing"

	"github.com/stevedores-org/nix-cache/caddymodule/origin"
)

// Run asserts that an origin keeps the contract of [origin.Origin]. Its tests
// are subtests of t that run in parallel; newOrigin is called by each, perhaps
// at the same time, for an empty origin that no other test uses. What it needs
// to release it registers with its own t's Cleanup.
//
// The suite asserts no more than the contract says: a Delete of what isn't
// there may succeed, and a local body may go on after its context has ended.
func Run(t *testing.T, newOrigin func(t *testing.T) origin.Origin) {
	tests := []struct {
		name string
		test func(*suite)
	}{
		{"Absence", testAbsence},
		{"Read", testRead},
		{"Ranges", testRanges},
		{"EmptyObject", testEmptyObject},
		{"ReadIfMatch", testReadIfMatch},
		{"ReadDuringOverwrite", testReadDuringOverwrite},
		{"ReadCancelled", testReadCancelled},
		{"InvisibleBeforeCommit", testInvisibleBeforeCommit},
		{"Overwrite", testOverwrite},
		{"Ended", testEnded},
		{"SizeMismatch", testSizeMismatch},
		{"CommitIfAbsent", testCommitIfAbsent},
		{"CommitIfAbsentRace", testCommitIfAbsentRace},
		{"CommitIfMatch", testCommitIfMatch},
		{"BigObjects", testBigObjects},
		{"BigAbort", testBigAbort},
		{"BigConditional", testBigConditional},
		{"WriteCancelled", testWriteCancelled},
		{"ContextEnded", testContextEnded},
		{"Concurrency", testConcurrency},
		{"List", testList},
		{"ListWithoutStaged", testListWithoutStaged},
		{"Delete", testDelete},
		{"String", testString},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tt.test(&suite{T: t, origin: newOrigin(t)})
		})
	}
}

// suite is one test of Run and its origin.
type suite struct {
	*testing.T
	origin origin.Origin
}

const (
	narinfoPath = "0c0lnmaqf9qsj2ivdqlwjh5sxkjqkqpk.narinfo"
	narPath     = "nar/1w1fff338fvdw53sqgamddn1b2xgds473pv6y13gizdbqjv4i5p3.nar.xz"
)

// pattern returns n bytes that differ along the way and by seed.
func pattern(n int, seed byte) []byte {
	p := make([]byte, n)
	state := uint32(seed)*2654435761 + 1
	for i := range p {
		state = state*1664525 + 1013904223
		p[i] = byte(state >> 24)
	}
	return p
}

// create begins an object and writes data in pieces of odd sizes.
func (s *suite) create(path string, data []byte, opts origin.CreateOptions) origin.Staged {
	s.Helper()
	staged, err := s.origin.Create(s.Context(), path, opts)
	if err != nil {
		s.Fatalf("Create(%s) = %v", path, err)
	}
	s.Cleanup(func() { staged.Abort() })
	if err := writeOdd(staged, data); err != nil {
		s.Fatalf("Write(%s) = %v", path, err)
	}
	return staged
}

func writeOdd(w io.Writer, data []byte) error {
	for n := 1; len(data) > 0; n = n*3 + 1 {
		piece := data[:min(n, len(data), 1<<20+7)]
		if _, err := w.Write(piece); err != nil {
			return err
		}
		data = data[len(piece):]
	}
	return nil
}

// put stores data at path and returns its description.
func (s *suite) put(path string, data []byte) origin.Info {
	s.Helper()
	if err := s.create(path, data, origin.CreateOptions{Size: int64(len(data))}).Commit(); err != nil {
		s.Fatalf("Commit(%s) = %v", path, err)
	}
	info, err := s.origin.Stat(s.Context(), path)
	if err != nil {
		s.Fatalf("Stat(%s) after Commit = %v", path, err)
	}
	return info
}

// read returns what Open gives.
func (s *suite) read(path string, opts origin.OpenOptions) (origin.Info, []byte, error) {
	return readAll(s.Context(), s.origin, path, opts)
}

func readAll(ctx context.Context, o origin.Origin, path string, opts origin.OpenOptions) (origin.Info, []byte, error) {
	info, body, err := o.Open(ctx, path, opts)
	if err != nil {
		return origin.Info{}, nil, err
	}
	defer body.Close()
	data, err := io.ReadAll(body)
	return info, data, err
}

func (s *suite) wantObject(path string, want []byte) {
	s.Helper()
	info, got, err := s.read(path, origin.OpenOptions{})
	switch {
	case err != nil:
		s.Errorf("Open(%s) = %v", path, err)
	case !bytes.Equal(got, want):
		s.Errorf("Open(%s) gives %d other bytes than the %d written", path, len(got), len(want))
	case info.Size != int64(len(want)):
		s.Errorf("Open(%s) says %d bytes, want %d", path, info.Size, len(want))
	}
}

func (s *suite) wantAbsent(path string) {
	s.Helper()
	_, _, err := s.read(path, origin.OpenOptions{})
	s.wantNotExist("Open", path, err)
	_, err = s.origin.Stat(s.Context(), path)
	s.wantNotExist("Stat", path, err)
}

func (s *suite) wantNotExist(method, path string, err error) {
	s.Helper()
	if !errors.Is(err, fs.ErrNotExist) || isUnavailable(err) {
		s.Errorf("%s(%s) = %v, want fs.ErrNotExist and no UnavailableError", method, path, err)
	}
}

// wantCancelled asserts the error of an operation whose context was cancelled:
// it is no answer about the object.
func (s *suite) wantCancelled(method string, err error) {
	s.Helper()
	if !errors.Is(err, context.Canceled) || errors.Is(err, fs.ErrNotExist) {
		s.Errorf("%s = %v, want context.Canceled", method, err)
	}
	if unavailable, ok := errors.AsType[*origin.UnavailableError](err); !ok || unavailable.Timeout {
		s.Errorf("%s = %v, want an UnavailableError that is no timeout", method, err)
	}
}

func isUnavailable(err error) bool {
	_, ok := errors.AsType[*origin.UnavailableError](err)
	return ok
}
