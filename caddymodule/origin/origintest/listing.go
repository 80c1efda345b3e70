package origintest

import (
	"errors"
	"io/fs"
	"slices"

	"github.com/stevedores-org/nix-cache/caddymodule/origin"
)

// list returns the paths with the prefix, as they come.
func (s *suite) list(prefix string) []string {
	s.Helper()
	paths := []string{}
	for entry, err := range s.origin.List(s.Context(), prefix) {
		if err != nil {
			s.Fatalf("List(%q) = %v", prefix, err)
		}
		paths = append(paths, entry.Path)
	}
	return paths
}

func testList(s *suite) {
	if got := s.list(""); len(got) != 0 {
		s.Errorf("List of an empty origin = %q", got)
	}
	// In lexical order: "." sorts before "/", and "/" before letters.
	all := []string{"a.narinfo", "b/c.doi", "n.ls", "nar/1.nar", "nar/10.nar", "nar/1a/2.nar", "nara.narinfo", "z.narinfo"}
	infos := make(map[string]origin.Info)
	for i, path := range slices.Backward(all) {
		infos[path] = s.put(path, pattern(i, byte(i)))
	}
	for _, tt := range []struct {
		prefix string
		want   []string
	}{
		{"", all},
		{"n", all[2:7]},
		{"nar", all[3:7]},
		{"nar/", all[3:6]},
		{"nar/1.", all[3:4]},
		{"nar/1a/2", all[5:6]},
		{"b/c.doi", all[1:2]},
		{"b/c.doi/", []string{}},
		{"missing/", []string{}},
	} {
		if got := s.list(tt.prefix); !slices.Equal(got, tt.want) {
			s.Errorf("List(%q) = %q, want %q", tt.prefix, got, tt.want)
		}
	}
	for entry, err := range s.origin.List(s.Context(), "") {
		if want := infos[entry.Path]; err != nil || entry.Size != want.Size || entry.ETag != want.ETag {
			s.Errorf("List describes %s as %+v, %v; Stat as %+v", entry.Path, entry.Info, err, want)
		}
		if entry.Path == "nar/1.nar" {
			break // The rest may be left.
		}
	}
}

func testListWithoutStaged(s *suite) {
	s.put("nar/there", []byte("x"))
	staged := s.create("nar/staged", pattern(6<<20, 12), origin.CreateOptions{Size: -1})
	if got := s.list(""); !slices.Equal(got, []string{"nar/there"}) {
		s.Errorf("List with one staged = %q", got)
	}
	if err := staged.Abort(); err != nil {
		s.Error(err)
	}
	if got := s.list(""); !slices.Equal(got, []string{"nar/there"}) {
		s.Errorf("List after Abort = %q", got)
	}
}

func testDelete(s *suite) {
	s.put(narPath, []byte("x"))
	s.put("nar/other", []byte("other"))
	if err := s.origin.Delete(s.Context(), narPath); err != nil {
		s.Fatal(err)
	}
	s.wantAbsent(narPath)
	s.wantObject("nar/other", []byte("other"))
	if err := s.origin.Delete(s.Context(), narPath); err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.Errorf("Delete of what isn't there = %v, want fs.ErrNotExist or nil", err)
	}
	s.put(narPath, []byte("again"))
	s.wantObject(narPath, []byte("again"))
}

func testString(s *suite) {
	name := s.origin.String()
	if name == "" {
		s.Error("String is empty")
	}
	s.put(narPath, []byte("x"))
	if again := s.origin.String(); again != name {
		s.Errorf("String was %q, is %q", name, again)
	}
}
