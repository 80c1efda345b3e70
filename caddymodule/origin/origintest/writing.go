package origintest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"

	"github.com/stevedores-org/nix-cache/caddymodule/origin"
)

func testInvisibleBeforeCommit(s *suite) {
	data := pattern(10_000, 6)
	staged := s.create(narPath, data, origin.CreateOptions{Size: -1})
	s.wantAbsent(narPath)
	if err := staged.Commit(); err != nil {
		s.Fatal(err)
	}
	s.wantObject(narPath, data)

	aborted := s.create(narinfoPath, data, origin.CreateOptions{Size: int64(len(data))})
	if err := aborted.Abort(); err != nil {
		s.Errorf("Abort = %v", err)
	}
	s.wantAbsent(narinfoPath)
}

func testOverwrite(s *suite) {
	first, second := []byte("the first version"), []byte("the second")
	old := s.put(narinfoPath, first)
	staged := s.create(narinfoPath, second, origin.CreateOptions{Size: -1, ContentType: "text/x-nix-narinfo"})
	s.wantObject(narinfoPath, first)
	if err := staged.Commit(); err != nil {
		s.Fatal(err)
	}
	s.wantObject(narinfoPath, second)
	if info, err := s.origin.Stat(s.Context(), narinfoPath); err != nil || info.ETag == old.ETag {
		s.Errorf("Stat after an overwrite = %+v, %v; the old ETag was %s", info, err, old.ETag)
	}
	s.create(narinfoPath, first, origin.CreateOptions{Size: -1}).Abort()
	s.wantObject(narinfoPath, second)
}

// testEnded: exactly one of Commit and Abort takes effect.
func testEnded(s *suite) {
	data := []byte("data")
	staged := s.create(narPath, data, origin.CreateOptions{Size: 4})
	if err := staged.Commit(); err != nil {
		s.Fatal(err)
	}
	if err := staged.Abort(); err != nil {
		s.Errorf("Abort after Commit = %v", err)
	}
	if err := staged.Commit(); err == nil {
		s.Error("a second Commit succeeded")
	}
	if _, err := staged.Write(data); err == nil {
		s.Error("Write after Commit succeeded")
	}
	s.wantObject(narPath, data)

	staged = s.create(narinfoPath, data, origin.CreateOptions{Size: 4})
	for range 2 {
		if err := staged.Abort(); err != nil {
			s.Errorf("Abort = %v", err)
		}
	}
	if err := staged.Commit(); err == nil {
		s.Error("Commit after Abort succeeded")
	}
	s.wantAbsent(narinfoPath)
}

func testSizeMismatch(s *suite) {
	for _, announced := range []int64{0, 3, 5, 50 << 20} {
		path := fmt.Sprintf("nar/announced-%d", announced)
		staged, err := s.origin.Create(s.Context(), path, origin.CreateOptions{Size: announced})
		if err != nil {
			s.Fatal(err)
		}
		_, err = io.WriteString(staged, "four")
		if err == nil {
			err = staged.Commit()
		}
		staged.Abort()
		if err == nil || isUnavailable(err) {
			s.Errorf("4 bytes in place of %d: %v, want an error that is no UnavailableError", announced, err)
		}
		s.wantAbsent(path)
	}
}

func testCommitIfAbsent(s *suite) {
	first, second := []byte("first"), []byte("second")
	staged := s.create(narinfoPath, first, origin.CreateOptions{Size: -1, IfAbsent: true})
	late := s.create(narinfoPath, second, origin.CreateOptions{Size: -1, IfAbsent: true})
	if err := staged.Commit(); err != nil {
		s.Fatalf("Commit(IfAbsent) = %v", err)
	}
	if err := late.Commit(); !errors.Is(err, fs.ErrExist) || isUnavailable(err) {
		s.Errorf("Commit(IfAbsent) of what is there = %v, want fs.ErrExist", err)
	}
	s.wantObject(narinfoPath, first)
	if err := s.origin.Delete(s.Context(), narinfoPath); err != nil {
		s.Fatal(err)
	}
	if err := s.create(narinfoPath, second, origin.CreateOptions{Size: -1, IfAbsent: true}).Commit(); err != nil {
		s.Errorf("Commit(IfAbsent) after Delete = %v", err)
	}
	s.wantObject(narinfoPath, second)
}

func testCommitIfAbsentRace(s *suite) {
	const racers = 3
	contents := make([][]byte, racers)
	errs := make([]error, racers)
	var race sync.WaitGroup
	for i := range racers {
		contents[i] = pattern(100+i, byte(i))
		staged := s.create(narinfoPath, contents[i], origin.CreateOptions{Size: -1, IfAbsent: true})
		race.Go(func() { errs[i] = staged.Commit() })
	}
	race.Wait()
	winners := 0
	for i, err := range errs {
		switch {
		case err == nil:
			winners++
			s.wantObject(narinfoPath, contents[i])
		case !errors.Is(err, fs.ErrExist):
			s.Errorf("Commit(IfAbsent) = %v, want fs.ErrExist", err)
		}
	}
	if winners != 1 {
		s.Errorf("%d of %d conditional commits took effect, want 1", winners, racers)
	}
}

func testCommitIfMatch(s *suite) {
	first := s.put(narinfoPath, []byte("first"))
	ours := s.create(narinfoPath, []byte("ours"), origin.CreateOptions{Size: -1, IfMatch: first.ETag})
	late := s.create(narinfoPath, []byte("late"), origin.CreateOptions{Size: -1, IfMatch: first.ETag})
	if err := ours.Commit(); err != nil {
		s.Fatalf("Commit(IfMatch) of that version = %v", err)
	}
	s.wantChanged(late.Commit())
	s.wantObject(narinfoPath, []byte("ours"))

	second, err := s.origin.Stat(s.Context(), narinfoPath)
	if err != nil {
		s.Fatal(err)
	}
	late = s.create(narinfoPath, []byte("late"), origin.CreateOptions{Size: -1, IfMatch: second.ETag})
	if err := s.origin.Delete(s.Context(), narinfoPath); err != nil {
		s.Fatal(err)
	}
	s.wantChanged(late.Commit())
	s.wantAbsent(narinfoPath)
}

func (s *suite) wantChanged(err error) {
	s.Helper()
	if !errors.Is(err, origin.ErrChanged) || errors.Is(err, fs.ErrNotExist) || isUnavailable(err) {
		s.Errorf("Commit(IfMatch) of another version = %v, want ErrChanged alone", err)
	}
}

// testBigObjects has sizes around those at which an origin may change its way
// of writing: R2's smallest part is 5 MiB.
func testBigObjects(s *suite) {
	const part = 5 << 20
	for i, size := range []int{part - 1, part, part + 1, 2 * part, 3*part + 12345} {
		for _, announced := range []int64{int64(size), -1} {
			path := fmt.Sprintf("nar/%d-%d", size, announced)
			data := pattern(size, byte(i))
			if err := s.create(path, data, origin.CreateOptions{Size: announced}).Commit(); err != nil {
				s.Errorf("Commit of %d bytes, announced as %d = %v", size, announced, err)
				continue
			}
			s.wantObject(path, data)
		}
	}
	_, got, err := s.read("nar/10485760--1", origin.OpenOptions{Offset: part - 10, Length: 20})
	if want := pattern(2*part, 3)[part-10 : part+10]; err != nil || !bytes.Equal(got, want) {
		s.Errorf("a range over two parts = %x, %v; want %x", got, err, want)
	}
}

func testBigAbort(s *suite) {
	data := pattern(17<<20, 8)
	staged := s.create(narPath, data, origin.CreateOptions{Size: -1})
	s.wantAbsent(narPath)
	if err := staged.Abort(); err != nil {
		s.Errorf("Abort = %v", err)
	}
	s.wantAbsent(narPath)

	short := s.create(narPath, data, origin.CreateOptions{Size: int64(len(data)) + 1})
	if err := short.Commit(); err == nil {
		s.Error("Commit of too few bytes succeeded")
	}
	s.wantAbsent(narPath)
}

func testBigConditional(s *suite) {
	data := pattern(11<<20, 9)
	if err := s.create(narPath, data, origin.CreateOptions{Size: -1, IfAbsent: true}).Commit(); err != nil {
		s.Fatalf("Commit(IfAbsent) = %v", err)
	}
	other := pattern(11<<20, 10)
	if err := s.create(narPath, other, origin.CreateOptions{Size: -1, IfAbsent: true}).Commit(); !errors.Is(err, fs.ErrExist) {
		s.Errorf("Commit(IfAbsent) of what is there = %v, want fs.ErrExist", err)
	}
	s.wantChanged(s.create(narPath, other, origin.CreateOptions{Size: -1, IfMatch: "another"}).Commit())
	s.wantObject(narPath, data)
}

func testWriteCancelled(s *suite) {
	ctx, cancel := context.WithCancel(s.Context())
	staged, err := s.origin.Create(ctx, narPath, origin.CreateOptions{Size: -1})
	if err != nil {
		s.Fatal(err)
	}
	data := pattern(12<<20, 11)
	if err := writeOdd(staged, data); err != nil {
		s.Fatal(err)
	}
	cancel()
	err = writeOdd(staged, data)
	if err == nil {
		err = staged.Commit()
	}
	s.wantCancelled("Write or Commit", err)
	if err := staged.Abort(); err != nil {
		s.Errorf("Abort after the context has ended = %v", err)
	}
	s.wantAbsent(narPath)
}

func testConcurrency(s *suite) {
	const objects = 8
	data := func(i int) []byte { return pattern(200_000+i, byte(i)) }
	shared := pattern(1<<20, 99)
	s.put("nar/shared", shared)
	var all sync.WaitGroup
	for i := range objects {
		path := fmt.Sprintf("nar/object-%d", i)
		all.Go(func() {
			if err := s.store(path, data(i)); err != nil {
				s.Errorf("store %s: %v", path, err)
				return
			}
			s.wantObject(path, data(i))
		})
		all.Go(func() {
			offset := int64(i) << 17
			_, got, err := s.read("nar/shared", origin.OpenOptions{Offset: offset, Length: 1 << 17})
			if err != nil || !bytes.Equal(got, shared[offset:offset+1<<17]) {
				s.Errorf("read of range %d: %d bytes, %v", i, len(got), err)
			}
		})
	}
	all.Wait()
	if got := s.list("nar/object-"); len(got) != objects {
		s.Errorf("%d objects listed, want %d", len(got), objects)
	}
}

// store is put for other goroutines than the test's own.
func (s *suite) store(path string, data []byte) error {
	staged, err := s.origin.Create(s.Context(), path, origin.CreateOptions{Size: int64(len(data))})
	if err != nil {
		return err
	}
	defer staged.Abort()
	if err := writeOdd(staged, data); err != nil {
		return err
	}
	return staged.Commit()
}
