package nix_test

import (
	"io/fs"
	"slices"
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

const (
	someDrv     = someHash + "-hello-2.12+?=_x.drv"
	someBuildID = "abcdef0123456789abcdef0123456789abcdef01"
	someDigest  = "f7eb407cc2405c7e341f87c449fcd8a6e1700960c5c301e68fa378d3ac50ea5d"
)

// longestOutput and longestDrv make file names of 255 and 244 bytes.
var (
	longestOutput = strings.Repeat("o", 179)
	longestDrv    = someHash + "-" + strings.Repeat("d", 207) + ".drv"
)

// otherPaths are of the kinds that are neither narinfo nor NAR.
var otherPaths = []struct {
	path, name, label string
	kind              nix.Kind
}{
	{someHash + ".ls", someHash, "listing", nix.KindListing},
	{"log/" + someDrv, someDrv, "log", nix.KindLog},
	{"log/" + longestDrv, longestDrv, "log", nix.KindLog},
	{"log/" + someHash + "-x.narinfo.drv", someHash + "-x.narinfo.drv", "log", nix.KindLog},
	{"realisations/sha256:" + someDigest + "!out.doi", "sha256:" + someDigest + "!out", "realisation", nix.KindRealisation},
	{"realisations/sha256:" + someDigest + "!.o+-_?=.doi.doi", "sha256:" + someDigest + "!.o+-_?=.doi", "realisation", nix.KindRealisation},
	{"realisations/sha256:" + someDigest + "!" + longestOutput + ".doi", "sha256:" + someDigest + "!" + longestOutput, "realisation", nix.KindRealisation},
	{"build-trace-v2/" + someDrv + "/out.doi", someDrv + "/out", "realisation", nix.KindBuildTrace},
	{"build-trace-v2/" + longestDrv + "/" + longestOutput + ".doi", longestDrv + "/" + longestOutput, "realisation", nix.KindBuildTrace},
	{"debuginfo/" + someBuildID + ".debug", someBuildID, "debuginfo", nix.KindDebugInfo},
}

func TestParseCachePathOfOtherKinds(t *testing.T) {
	for _, tt := range otherPaths {
		p, err := nix.ParseCachePath(tt.path)
		if err != nil {
			t.Error(err)
			continue
		}
		if p.Kind() != tt.kind || p.Kind().String() != tt.label || p.String() != tt.path || p.Name() != tt.name ||
			p.StorePathHash() != "" || p.FileHash() != (nix.SHA256{}) {
			t.Errorf("got %v %q named %q for store path %q, file %v", p.Kind(), p, p.Name(), p.StorePathHash(), p.FileHash())
		}
		checkIsFileName(t, p)
	}
}

func TestKinds(t *testing.T) {
	want := []nix.Kind{
		nix.KindNARInfo, nix.KindNAR, nix.KindListing, nix.KindLog, nix.KindRealisation, nix.KindBuildTrace, nix.KindDebugInfo,
	}
	if got := slices.Collect(nix.Kinds()); !slices.Equal(got, want) {
		t.Errorf("Kinds = %v, want %v", got, want)
	}
}

var badCachePaths = []string{
	"", "/", ".", "..", "nar", "nar/", ".narinfo", "nar/.nar", "nix-cache-info", "index.html",
	"/" + someHash + ".narinfo",
	someHash + ".narinfo/", someHash + ".narinfo ", someHash + ".narinfo\n", someHash + ".narinfo\x00", someHash + ".narinfo.xz",
	someHash + ".NARINFO", someHash + "narinfo", someHash,
	someHash[1:] + ".narinfo", someHash + "0.narinfo", "e" + someHash[1:] + ".narinfo", strings.ToUpper(someHash) + ".narinfo",
	someHash + "-hello.narinfo", "nar/" + someHash + ".narinfo", "./" + someHash + ".narinfo", "nar/../" + someHash + ".narinfo",
	"../" + someHash + ".narinfo", "%2e%2e/" + someHash + ".narinfo",
	emptyHash + ".nar", "nar//" + emptyHash + ".nar", "nar/./" + emptyHash + ".nar", "nar%2F" + emptyHash + ".nar", `nar\` + emptyHash + ".nar",
	"nar/" + emptyHash, "nar/" + emptyHash + ".nar.", "nar/" + emptyHash + ".nar.gz", "nar/" + emptyHash + ".nar.xz.xz", "nar/" + emptyHash + ".xz",
	"nar/" + emptyHash + ".nar?x", "nar/" + emptyHash + ".nar.xz/..", "nar/" + emptyHash[1:] + ".nar", "nar/z" + emptyHash[1:] + ".nar",
	"nar/" + someHash + ".nar", "nar/sha256:" + emptyHash + ".nar", "NAR/" + emptyHash + ".nar",
	someHash[1:] + ".ls", "e" + someHash[1:] + ".ls", someHash + ".ls/", someHash + ".LS", someHash + "-hello.ls", "nar/" + someHash + ".ls", "log/" + someHash + ".ls",
	"log", "log/", "log//" + someDrv, "log/./" + someDrv, "log/../log/" + someDrv, "log/..", "log/../" + someHash + ".narinfo", "log/../../etc/passwd",
	`log\` + someDrv, `log/..\` + someDrv, "log%2F" + someDrv, "log/%2e%2e%2f" + someDrv, "log/" + someDrv + "/", "log/" + someDrv + "/x", "log/x/" + someDrv,
	"log/" + someDrv + "\x00", "log/" + someDrv + "\n", "log/ " + someDrv, "log/" + someHash + "-.drv/..", "log/" + someHash + "-hello", "log/" + someHash + ".drv",
	"log/" + someHash + "-hello.drv.bz2", "log/" + someHash + "-hëllo.drv", "log/" + someHash + "-\xff.drv", "log/" + someHash + "-a%20b.drv", "log/" + someHash[1:] + "-hello.drv",
	"log/" + someHash + "-..-x.drv", "log/" + someHash + "-" + strings.Repeat("d", 208) + ".drv", "LOG/" + someDrv,
	"realisations/.doi", "realisations/" + someDigest + "!out.doi", "realisations/sha256:" + someDigest + ".doi", "realisations/sha256:" + someDigest + "!.doi",
	"realisations/sha256:" + someDigest + "%21out.doi", "realisations/sha256:" + someDigest + "!out", "realisations/sha256:" + someDigest[1:] + "!out.doi",
	"realisations/sha256:" + someDigest + "0!out.doi", "realisations/sha256:" + strings.ToUpper(someDigest) + "!out.doi", "realisations/sha1:" + someDigest + "!out.doi",
	"realisations/sha256:" + emptyHash + "!out.doi", "realisations/sha256:" + someDigest + "!..doi", "realisations/sha256:" + someDigest + "!...doi",
	"realisations/sha256:" + someDigest + "!a!b.doi", "realisations/sha256:" + someDigest + "!a/b.doi", "realisations/sha256:" + someDigest + "!../x.doi",
	"realisations/sha256:" + someDigest + "!a b.doi", "realisations/sha256:" + someDigest + "!a\x00.doi", "realisations/sha256:" + someDigest + "!" + longestOutput + "o.doi",
	"build-trace-v2/" + someDrv + ".doi", "build-trace-v2/" + someDrv + "/.doi", "build-trace-v2/" + someDrv + "//out.doi", "build-trace-v2//out.doi", "build-trace-v2/../out.doi",
	"build-trace-v2/" + someDrv + "/..doi", "build-trace-v2/" + someDrv + "/...doi", "build-trace-v2/" + someDrv + "/../x.doi", "build-trace-v2/" + someDrv + "/a/b.doi", "build-trace-v2/" + someDrv + `/a\b.doi`,
	"build-trace-v2/" + someDrv + "%2Fout.doi", "build-trace-v2/" + someDrv + "/out", "build-trace-v2/" + someHash + "-hello/out.doi", "build-trace-v2/" + someDrv + "/" + longestOutput + "o.doi",
	"build-trace/" + someDrv + "/out.doi", "build-trace-v3/" + someDrv + "/out.doi",
	"debuginfo/.debug", "debuginfo/" + someBuildID, "debuginfo/" + someBuildID[1:] + ".debug", "debuginfo/" + someBuildID + "0.debug", "debuginfo/" + someBuildID + someBuildID[:24] + ".debug",
	"debuginfo/" + strings.ToUpper(someBuildID) + ".debug", "debuginfo/g" + someBuildID[1:] + ".debug", "debuginfo/../" + someBuildID + ".debug", "debuginfo/" + someBuildID + ".debug/..",
	"debuginfo/" + someBuildID + ".debug.debug", "debuginfo/" + someBuildID[:2] + "/" + someBuildID[2:] + ".debug", "debuginfo//" + someBuildID + ".debug",
	strings.Repeat("a", 1<<20), strings.Repeat("\xff", 1<<10) + ".narinfo",
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
	for _, tt := range otherPaths {
		f.Add(tt.path)
	}
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
		checkIsFileName(t, p)
		switch p.Kind() {
		case nix.KindNARInfo:
			if p.StorePathHash()+".narinfo" != path {
				t.Errorf("%q has store path hash %q", path, p.StorePathHash())
			}
		case nix.KindNAR:
			if !strings.HasPrefix(path, "nar/"+p.FileHash().Base32()+".nar") {
				t.Errorf("%q has file hash %v", path, p.FileHash())
			}
		case nix.KindListing:
			wantPath(t, p, p.Name()+".ls")
		case nix.KindLog:
			wantPath(t, p, "log/"+mustStorePath(t, p.Name()).Base())
		case nix.KindRealisation:
			wantPath(t, p, "realisations/"+p.Name()+".doi")
		case nix.KindBuildTrace:
			drv, output, _ := strings.Cut(p.Name(), "/")
			wantPath(t, p, "build-trace-v2/"+mustStorePath(t, drv).Base()+"/"+output+".doi")
		case nix.KindDebugInfo:
			wantPath(t, p, "debuginfo/"+p.Name()+".debug")
		default:
			t.Errorf("%q has kind %v", path, p.Kind())
		}
	})
}

func wantPath(t *testing.T, p nix.CachePath, want string) {
	t.Helper()
	if p.String() != want {
		t.Errorf("%q is called %q", p, p.Name())
	}
}

// checkIsFileName checks that a path can be one of a file system, and an S3 key,
// and stays where it is put.
func checkIsFileName(t *testing.T, p nix.CachePath) {
	t.Helper()
	for element := range strings.SplitSeq(p.String(), "/") {
		if len(element) > 255 {
			t.Errorf("%q has an element of %d bytes", p, len(element))
		}
	}
	odd := func(c rune) bool { return c <= ' ' || c > '~' || strings.ContainsRune(`\"'%*<>|#&;`, c) }
	if !fs.ValidPath(p.String()) || strings.ContainsFunc(p.String(), odd) {
		t.Errorf("%q is no safe path", p)
	}
}

func mustStorePath(t testing.TB, base string) nix.StorePath {
	t.Helper()
	p, err := nix.ParseStorePathBase(base)
	if err != nil {
		t.Fatal(err)
	}
	return p
}
