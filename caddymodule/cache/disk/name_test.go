package disk

import (
	"strconv"
	"strings"
	"testing"
)

var names = []struct {
	name string
	key  string
	meta Meta
	ok   bool
}{
	{"key,5,,1", "key", Meta{5, ""}, true},
	{"key,0,tag,zz", "key", Meta{0, "tag"}, true},
	{"a-b.nar.xz,1125899906842624,t,0", "a-b.nar.xz", Meta{maxSize, "t"}, true},
	{"", "", Meta{}, false},
	{"key", "", Meta{}, false},
	{"key,5,1", "", Meta{}, false},
	{",5,,1", "", Meta{}, false},
	{"key,,,1", "", Meta{}, false},
	{"key,5,,", "", Meta{}, false},
	{"key,-5,,1", "", Meta{}, false},
	{"key,+5,,1", "", Meta{}, false},
	{"key,05,,1", "", Meta{}, false},
	{"key,5,,01", "", Meta{}, false},
	{"key,5,,Z", "", Meta{}, false},
	{"key,5,tag,1,", "", Meta{}, false},
	{"key,1125899906842625,,1", "", Meta{}, false},
	{"key,9223372036854775807,,1", "", Meta{}, false},
	{"key,5,,zzzzzzzzzzzzzzzzzzz", "", Meta{}, false},
}

func TestParseName(t *testing.T) {
	for _, test := range names {
		key, meta, _, ok := parseName(test.name)
		if key != test.key || meta != test.meta || ok != test.ok {
			t.Errorf("parseName(%q) = %q, %+v, %v", test.name, key, meta, ok)
		}
	}
}

func FuzzParseName(f *testing.F) {
	for _, test := range names {
		f.Add(test.name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		key, meta, serial, ok := parseName(name)
		if !ok {
			return
		}
		if got := nameAfter(key, meta, serial); got != name {
			t.Errorf("parseName(%q) is read from %q too", got, name)
		}
		if key != keyOf(name) || costOf(meta.Size) < meta.Size {
			t.Errorf("parseName(%q) = %q, %+v", name, key, meta)
		}
	})
}

func FuzzFileName(f *testing.F) {
	f.Add("key", int64(5), "tag", uint64(1))
	f.Fuzz(func(t *testing.T, key string, size int64, tag string, serial uint64) {
		if key == "" || strings.Contains(key+tag, ",") || size < 0 || size > maxSize {
			return
		}
		meta := Meta{size, tag}
		name := nameAfter(key, meta, serial)
		gotKey, gotMeta, gotSerial, ok := parseName(name)
		if !ok || gotKey != key || gotMeta != meta || gotSerial != serial {
			t.Errorf("parseName(%q) = %q, %+v, %s, %v", name, gotKey, gotMeta, strconv.FormatUint(gotSerial, 36), ok)
		}
	})
}

// nameAfter is the name that the tier gives a file with that serial.
func nameAfter(key string, meta Meta, serial uint64) string {
	tier := new(Tier)
	tier.serial.Store(serial - 1)
	return tier.fileName(key, meta)
}
