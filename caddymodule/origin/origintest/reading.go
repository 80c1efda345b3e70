package origintest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math"

	"github.com/stevedores-org/nix-cache/caddymodule/origin"
)

func testAbsence(s *suite) {
	s.wantAbsent(narPath)
	_, _, err := s.read(narPath, origin.OpenOptions{Offset: 5, Length: 5})
	s.wantNotExist("Open of a range", narPath, err)
	_, _, err = s.read(narPath, origin.OpenOptions{IfMatch: "other"})
	s.wantNotExist("Open with IfMatch", narPath, err)

	s.put("nar/a", []byte("a"))
	s.wantAbsent("nar")
	s.wantAbsent("nar/b")
}

func testRead(s *suite) {
	data := pattern(100_000, 1)
	stat := s.put(narPath, data)
	if stat.Size != int64(len(data)) || stat.ETag == "" {
		s.Errorf("Stat = %+v, want %d bytes and an ETag", stat, len(data))
	}
	s.wantObject(narPath, data)
	info, _, err := s.read(narPath, origin.OpenOptions{})
	if err != nil || info.ETag != stat.ETag || !info.ModTime.Equal(stat.ModTime) {
		s.Errorf("Open describes %+v, %v; Stat %+v", info, err, stat)
	}
}

func testRanges(s *suite) {
	const size = 1000
	data := pattern(size, 2)
	stat := s.put(narPath, data)
	for _, tt := range []struct {
		name           string
		offset, length int64
		want           []byte
	}{
		{"whole", 0, 0, data},
		{"first byte", 0, 1, data[:1]},
		{"head", 0, 100, data[:100]},
		{"middle", 300, 400, data[300:700]},
		{"tail", 900, 0, data[900:]},
		{"last byte", size - 1, 1, data[size-1:]},
		{"up to the end", 900, 100, data[900:]},
		{"beyond the end", 900, 101, data[900:]},
		{"all and more", 0, size + 1, data},
		{"no limit in effect", 1, math.MaxInt64, data[1:]},
		{"at the end", size, 0, nil},
		{"at the end, limited", size, 1, nil},
		{"past the end", size + 500, 0, nil},
		{"past the end, limited", size + 500, 10, nil},
	} {
		info, got, err := s.read(narPath, origin.OpenOptions{Offset: tt.offset, Length: tt.length})
		if err != nil {
			s.Errorf("%s: Open = %v", tt.name, err)
			continue
		}
		if !bytes.Equal(got, tt.want) {
			s.Errorf("%s: %d bytes, want %d", tt.name, len(got), len(tt.want))
		}
		if info.Size != size || info.ETag != stat.ETag {
			s.Errorf("%s: described as %+v, want that of the whole: %+v", tt.name, info, stat)
		}
	}
}

func testEmptyObject(s *suite) {
	stat := s.put(narPath, nil)
	if stat.Size != 0 || stat.ETag == "" {
		s.Errorf("Stat = %+v, want 0 bytes and an ETag", stat)
	}
	for _, opts := range []origin.OpenOptions{
		{}, {Length: 1}, {Offset: 1}, {Offset: 5, Length: 5}, {Length: 5, IfMatch: stat.ETag},
	} {
		info, got, err := s.read(narPath, opts)
		if err != nil || len(got) != 0 {
			s.Errorf("Open(%+v) = %q, %v; want an empty body", opts, got, err)
			continue
		}
		if info.Size != 0 || info.ETag != stat.ETag {
			s.Errorf("Open(%+v) describes %+v, want %+v", opts, info, stat)
		}
	}
}

func testReadIfMatch(s *suite) {
	ranges := []origin.OpenOptions{{}, {Offset: 3}, {Offset: 3, Length: 2}, {Offset: 100, Length: 10}}
	data := []byte("the first version")
	first := s.put(narPath, data)
	for _, opts := range ranges {
		opts.IfMatch = first.ETag
		if _, _, err := s.read(narPath, opts); err != nil {
			s.Errorf("Open(%+v) of that version = %v", opts, err)
		}
	}
	second := s.put(narPath, []byte("another version!!"))
	if second.ETag == first.ETag {
		s.Fatalf("two versions have ETag %s", first.ETag)
	}
	for _, opts := range ranges {
		opts.IfMatch = first.ETag
		_, _, err := s.read(narPath, opts)
		if !errors.Is(err, origin.ErrChanged) || isUnavailable(err) {
			s.Errorf("Open(%+v) of another version = %v, want ErrChanged", opts, err)
		}
	}
}

// testReadDuringOverwrite: a body is of one version, whatever happens since.
func testReadDuringOverwrite(s *suite) {
	first, second := pattern(1<<20, 3), pattern(1<<20, 4)
	s.put(narPath, first)
	_, body, err := s.origin.Open(s.Context(), narPath, origin.OpenOptions{})
	if err != nil {
		s.Fatal(err)
	}
	defer body.Close()
	head := make([]byte, 10)
	if _, err := io.ReadFull(body, head); err != nil {
		s.Fatal(err)
	}
	s.put(narPath, second)
	tail, err := io.ReadAll(body)
	if err == nil && !bytes.Equal(append(head, tail...), first) {
		s.Error("the body is not of the version that was opened")
	}
	s.wantObject(narPath, second)
}

func testReadCancelled(s *suite) {
	data := pattern(4<<20, 5)
	s.put(narPath, data)
	for _, opts := range []origin.OpenOptions{{}, {Length: int64(len(data))}} {
		ctx, cancel := context.WithCancel(s.Context())
		_, body, err := s.origin.Open(ctx, narPath, opts)
		if err != nil {
			s.Fatal(err)
		}
		head := make([]byte, 1000)
		if _, err := io.ReadFull(body, head); err != nil {
			s.Fatal(err)
		}
		cancel()
		tail, err := io.ReadAll(body)
		if err == nil && !bytes.Equal(append(head, tail...), data) {
			s.Errorf("Open(%+v): the body ended early without an error after its context", opts)
		}
		if err != nil && !errors.Is(err, context.Canceled) {
			s.Errorf("Open(%+v): the body ended with %v, want context.Canceled", opts, err)
		}
		body.Close()
	}
}

func testContextEnded(s *suite) {
	s.put(narPath, []byte("x"))
	ctx, cancel := context.WithCancel(s.Context())
	cancel()
	for _, path := range []string{narPath, "nar/missing"} {
		_, _, err := readAll(ctx, s.origin, path, origin.OpenOptions{})
		s.wantCancelled("Open", err)
		_, err = s.origin.Stat(ctx, path)
		s.wantCancelled("Stat", err)
		s.wantCancelled("Delete", s.origin.Delete(ctx, path))
	}
	for _, err := range s.origin.List(ctx, "") {
		s.wantCancelled("List", err)
	}
	s.wantObject(narPath, []byte("x"))
}
