package nix_test

import (
	"strings"
	"testing"

	"github.com/stevedores-org/nix-cache/caddymodule/nix"
)

func TestParseCachePathNARInfo(t *testing.T) {
	p, err := nix.ParseCachePath(someHash + ".narinfo")
	if err != nil {
		t.Fatal(err)
	}
	if p.Kind() != nix.KindNARInfo || p.Kind().String() != "narinfo" || p.String() != someHash+".narinfo" ||
		p.StorePathHash() != someHash || p.FileHash() != (nix.SHA256{}) {
		t.Errorf("got %v %q for store path %q, file %v", p.Kind(), p, p.StorePathHash(), p.FileHash())
	}
	if got := nix.NARInfoPath(mustStorePath(t, someHash+"-hello")); got != p {
		t.Errorf("NARInfoPath = %v, want %v", got, p)
	}
}

func TestParseCachePathNAR(t *testing.T) {
	for compression, suffix := range map[nix.Compression]string{
		nix.CompressionNone: "", nix.CompressionXZ: ".xz", nix.CompressionZstd: ".zst", nix.CompressionBzip2: ".bz2",
		nix.CompressionBrotli: ".br", nix.CompressionGzip: "", nix.CompressionLzip: ".lzip", nix.CompressionLZ4: ".lz4",
	} {
		path := "nar/" + emptyHash + ".nar" + suffix
		p, err := nix.ParseCachePath(path)
		if err != nil {
			t.Error(err)
			continue
		}
		if p.Kind() != nix.KindNAR || p.Kind().String() != "nar" || p.String() != path ||
			p.StorePathHash() != "" || p.FileHash().Base32() != emptyHash {
			t.Errorf("got %v %q for store path %q, file %v", p.Kind(), p, p.StorePathHash(), p.FileHash())
		}
		if got := nix.NARPath(p.FileHash(), compression); got != p {
			t.Errorf("NARPath with %v = %v, want %v", compression, got, p)
		}
	}
}

var badCachePaths = []string{
	"", "/", ".", "..", "nar", "nar/", ".narinfo", "nar/.nar", "nix-cache-info", "index.html",
	"/" + someHash + ".narinfo",
	someHash + ".narinfo/", someHash + ".narinfo ", someHash + ".narinfo\n", someHash + ".narinfo\x00", someHash + ".narinfo.xz",
	someHash + ".NARINFO", someHash + "narinfo", someHash, someHash + ".ls",
	someHash[1:] + ".narinfo", someHash + "0.narinfo", "e" + someHash[1:] + ".narinfo", strings.ToUpper(someHash) + ".narinfo",
	someHash + "-hello.narinfo", "nar/" + someHash + ".narinfo", "./" + someHash + ".narinfo", "nar/../" + someHash + ".narinfo",
	"../" + someHash + ".narinfo", "%2e%2e/" + someHash + ".narinfo",
	emptyHash + ".nar", "nar//" + emptyHash + ".nar", "nar/./" + emptyHash + ".nar", "nar%2F" + emptyHash + ".nar", `nar\` + emptyHash + ".nar",
	"nar/" + emptyHash, "nar/" + emptyHash + ".nar.", "nar/" + emptyHash + ".nar.gz", "nar/" + emptyHash + ".nar.xz.xz", "nar/" + emptyHash + ".xz",
	"nar/" + emptyHash + ".nar?x", "nar/" + emptyHash + ".nar.xz/..", "nar/" + emptyHash[1:] + ".nar", "nar/z" + emptyHash[1:] + ".nar",
	"nar/" + someHash + ".nar", "nar/sha256:" + emptyHash + ".nar", "NAR/" + emptyHash + ".nar",
	"log/" + someHash + "-hello.drv", strings.Repeat("a", 1<<20), strings.Repeat("\xff", 1<<10) + ".narinfo",
}

func TestParseCachePathRefuses(t *testing.T) {
	for _, path := range badCachePaths {
		if p, err := nix.ParseCachePath(path); err == nil {
			t.Errorf("ParseCachePath(%q) = %v %v, want an error", path, p.Kind(), p)
		} else if p != (nix.CachePath{}) {
			t.Errorf("ParseCachePath(%q) = %v with an error", path, p)
		} else {
			checkErrorText(t, err)
		}
	}
}

func TestZeroCachePath(t *testing.T) {
	if p := nix.NARInfoPath(nix.StorePath{}); !p.IsZero() || p.String() != "" || p.StorePathHash() != "" {
		t.Errorf("no store path has the narinfo %q", p)
	}
}

func FuzzParseCachePath(f *testing.F) {
	f.Add(someHash + ".narinfo")
	f.Add("nar/" + emptyHash + ".nar")
	f.Add("nar/" + emptyHash + ".nar.lzip")
	for _, path := range badCachePaths {
		f.Add(path)
	}
	f.Fuzz(func(t *testing.T, path string) {
		p, err := nix.ParseCachePath(path)
		if err != nil {
			checkErrorText(t, err)
			return
		}
		if p.String() != path {
			t.Errorf("ParseCachePath(%q).String() = %q", path, p)
		}
		switch p.Kind() {
		case nix.KindNARInfo:
			if p.StorePathHash()+".narinfo" != path {
				t.Errorf("%q has store path hash %q", path, p.StorePathHash())
			}
		case nix.KindNAR:
			if !strings.HasPrefix(path, "nar/"+p.FileHash().Base32()+".nar") {
				t.Errorf("%q has file hash %v", path, p.FileHash())
			}
		default:
			t.Errorf("%q has kind %v", path, p.Kind())
		}
	})
}

func mustStorePath(t testing.TB, base string) nix.StorePath {
	t.Helper()
	p, err := nix.ParseStorePathBase(base)
	if err != nil {
		t.Fatal(err)
	}
	return p
}
