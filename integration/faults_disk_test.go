package integration

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/stevedores-org/nix-cache/caddymodule/nix/nixtest"
)

// bypassed is what tells the operator that a NAR did not get to the disk.
const bypassed = "passed through, not stored"

// mountTmpfs mounts an empty file system with these options.
func mountTmpfs(tb testing.TB, options string) (dir string) {
	tb.Helper()
	dir = tempDir(tb)
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		tb.Fatalf("mount tmpfs: %v", err)
	}
	tb.Cleanup(func() { unmount(tb, dir) })
	return dir
}

func unmount(tb testing.TB, dir string) {
	tb.Helper()
	if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
		tb.Errorf("unmount %s: %v", dir, err)
	}
}

// mountReadOnly lays a read-only view of a directory over it, whoever has files
// open there.
func mountReadOnly(tb testing.TB, dir string) (undo func()) {
	tb.Helper()
	if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
		tb.Fatalf("mount: %v", err)
	}
	mounted := true
	undo = func() {
		if mounted {
			mounted = false
			unmount(tb, dir)
		}
	}
	tb.Cleanup(undo)
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""); err != nil {
		tb.Fatalf("remount read-only: %v", err)
	}
	return undo
}

// startOnTier starts a cache with its tier in a directory.
func startOnTier(tb testing.TB, o *testOrigin, dir string) *cache {
	tb.Helper()
	return startCache(tb, o, "disk "+dir+" 1GiB 0")
}

// wantBypass checks that a package is served right while the disk can't take it.
func wantBypass(tb testing.TB, c *cache, p nixtest.Package) {
	tb.Helper()
	for range 2 {
		nar := c.get(tb, narPath(p))
		nar.wantStatus(tb, http.StatusOK)
		nar.wantHeader(tb, "Cache-Status", bypass)
		nar.wantBody(tb, p.File)
		c.get(tb, narPath(p), header("Range", "bytes=1000-")).wantBody(tb, p.File[1000:])
		narinfo := c.get(tb, narinfoPath(p))
		narinfo.wantStatus(tb, http.StatusOK)
		narinfo.wantBody(tb, p.Text())
	}
	c.getUntil(tb, narinfoPath(p), memoryHit)
	c.logged(tb, bypassed)
}

// wantStored checks that the disk takes a package.
func wantStored(tb testing.TB, c *cache, p nixtest.Package) {
	tb.Helper()
	warmUp(tb, c, p)
	wantWarm(tb, c, p)
}

// TestDiskFull: others have filled the file system, at first while Caddy runs
// and then before it starts.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	wantMadeWay := func(tb testing.TB, c *cache, p nixtest.Package) {
		tb.Helper()
		c.getUntil(tb, narPath(p), diskHit).wantBody(tb, p.File)
	}
	for name, tt := range map[string]struct {
		fill func(testing.TB, string) (undo func())
		want func(testing.TB, *cache, nixtest.Package) // of one file more, about as large as all others
	}{
		"of bytes":  {fillBytes, wantBypass},
		"of inodes": {fillInodes, wantMadeWay},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fill := tt.fill
			dir := mountTmpfs(t, "size=64m,nr_inodes=400")
			o := r2Origin(t)
			c := startOnTier(t, o, dir+"/tier")
			first, second, third := signedPackage("full-1", 3_000_000), signedPackage("full-2", 3_000_000), signedPackage("full-3", 3_000_000)
			for _, p := range []nixtest.Package{first, second, third} {
				o.lay(t, p)
			}
			warmUp(t, c, first)
			undo := fill(t, dir)
			wantWarm(t, c, first)
			tt.want(t, c, second)
			undo()
			wantStored(t, c, first)
			wantStored(t, c, second)

			c.stop(t)
			if err := os.RemoveAll(dir + "/tier"); err != nil {
				t.Fatal(err)
			}
			undo = fill(t, dir)
			c.run(t)
			nar := c.get(t, narPath(third))
			nar.wantStatus(t, http.StatusOK)
			nar.wantBody(t, third.File)
			undo()
			wantStored(t, c, third)
		})
	}
}

// fillBytes takes all the space there is.
func fillBytes(tb testing.TB, dir string) (undo func()) {
	tb.Helper()
	f, err := os.Create(dir + "/foreign")
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	for size := int64(0); ; size += 4096 {
		if err := unix.Fallocate(int(f.Fd()), 0, size, 4096); err != nil {
			break
		}
	}
	return func() {
		if err := os.Remove(f.Name()); err != nil {
			tb.Error(err)
		}
	}
}

// fillInodes makes as many files as there can be.
func fillInodes(tb testing.TB, dir string) (undo func()) {
	tb.Helper()
	var made []string
	for i := 0; ; i++ {
		name := fmt.Sprintf("%s/foreign-%d", dir, i)
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			break
		}
		made = append(made, name)
	}
	return func() {
		for _, name := range made {
			if err := os.Remove(name); err != nil {
				tb.Error(err)
			}
		}
	}
}

// TestDiskReadOnly: what is there is served, and no more gets there until it
// can be written again.
func TestDiskReadOnly(t *testing.T) {
	t.Parallel()
	o := r2Origin(t)
	c := startCache(t, o)
	warm, cold, pushed := signedPackage("ro-warm", 3_000_000), signedPackage("ro-cold", 3_000_000), signedPackage("ro-pushed", 3_000_000)
	o.lay(t, warm)
	o.lay(t, cold)
	warmUp(t, c, warm)

	undo := mountReadOnly(t, c.tierDir())
	wantWarm(t, c, warm)
	wantBypass(t, c, cold)
	c.upload(t, pushed)
	wantBypass(t, c, pushed)
	wantWarm(t, c, warm)
	undo()
	wantStored(t, c, cold)
	wantStored(t, c, pushed)

	c.stop(t)
	undo = mountReadOnly(t, c.tierDir())
	c.run(t)
	wantServed(t, c, []nixtest.Package{warm, cold, pushed})
	undo()
	wantStored(t, c, warm)
}

// TestDiskDirectoryDeleted: somebody deletes the directory under a running
// Caddy, with a fill under way.
func TestDiskDirectoryDeleted(t *testing.T) {
	t.Parallel()
	o := smallParts(t)
	c := startCache(t, o)
	warm, during := signedPackage("gone-warm", 3_000_000), signedPackage("gone-during", 8_000_000)
	o.lay(t, warm)
	o.lay(t, during)
	warmUp(t, c, warm)
	release := o.bucket.hold()
	defer release()
	s := c.open(t, narPath(during), 1000)
	if err := os.RemoveAll(c.tierDir()); err != nil {
		t.Fatal(err)
	}
	release()
	s.wantRest(t, during.File)
	wantServed(t, c, []nixtest.Package{warm, during})
	wantStored(t, c, warm)
	wantStored(t, c, during)

	c.restart(t)
	o.bucket.take()
	wantServed(t, c, []nixtest.Package{warm, during})
	for _, r := range o.bucket.take() {
		if strings.HasPrefix(r.Path, "nar/") { // narinfos were in memory only
			t.Errorf("%s %s reached the bucket after a restart", r.Method, r.Path)
		}
	}
}

// TestDiskEntriesChanged: somebody changes the files of a tier.
func TestDiskEntriesChanged(t *testing.T) {
	t.Parallel()
	o := r2Origin(t)
	c := startCache(t, o)
	p := signedPackage("changed", 3_000_000)
	o.lay(t, p)
	for _, tt := range []struct {
		name   string
		change func(file string) error
	}{
		{"truncated", func(file string) error { return os.Truncate(file, 200) }},
		{"empty", func(file string) error { return os.Truncate(file, 0) }},
		{"longer", func(file string) error { return os.Truncate(file, 4_000_000) }},
		{"flipped", flipBit},
		{"deleted", os.Remove},
		{"a directory", func(file string) error {
			if err := os.Remove(file); err != nil {
				return err
			}
			return os.Mkdir(file, 0o700)
		}},
	} {
		wantStored(t, c, p)
		c.waitForTier(t, narinfoPath(p))
		c.stop(t) // so that narinfos come from disk
		change(t, c, narinfoPath(p), tt.change)
		c.run(t)
		change(t, c, narPath(p), tt.change)
		for path, want := range map[string][]byte{narinfoPath(p): p.Text(), narPath(p): p.File} {
			a := c.get(t, path)
			a.Request += " " + tt.name
			a.wantStatus(t, http.StatusOK)
			a.wantBody(t, want)
		}
	}
	wantStored(t, c, p)
	c.waitForTier(t, narinfoPath(p))
	c.stop(t)
	change(t, c, narinfoPath(p), flipBit)
	c.run(t)
	c.get(t, narinfoPath(p)).wantBody(t, p.Text())
	c.logged(t, "its bytes are not the ones that were stored")
}

// TestDiskEntryFlippedAtACrash: what was on its way to the disk may be anything.
func TestDiskEntryFlippedAtACrash(t *testing.T) {
	t.Parallel()
	o := r2Origin(t)
	c := startCache(t, o)
	p := signedPackage("flipped-at-a-crash", 3_000_000)
	o.lay(t, p)
	wantStored(t, c, p)
	c.waitForTier(t, narinfoPath(p))
	for range 2 {
		c.kill(t)
		change(t, c, narPath(p), flipBitUnnoticed)
		c.run(t)
		c.get(t, narPath(p)).wantBody(t, p.File)
		c.get(t, narinfoPath(p)).wantBody(t, p.Text())
		c.getUntil(t, narPath(p), diskHit)
	}
}

// TestTwoProcessesOnOneDirectory: the second says so, serves without it, and
// takes it over when the first has ended.
func TestTwoProcessesOnOneDirectory(t *testing.T) {
	t.Parallel()
	o := r2Origin(t)
	p := signedPackage("two-processes", 100_000)
	o.lay(t, p)
	tier := "disk " + tempDir(t) + " 100MiB 0"
	first := startCache(t, o, tier)
	first.getUntil(t, narPath(p), diskHit)
	second := startCache(t, o, tier)
	second.get(t, narPath(p)).wantHeader(t, "Cache-Status", bypass)
	second.get(t, narPath(p)).wantBody(t, p.File)
	second.logged(t, "in use by another process")
	first.getUntil(t, narPath(p), diskHit)
	first.stop(t)
	second.getUntil(t, narPath(p), diskHit).wantBody(t, p.File)
}

func change(tb testing.TB, c *cache, path string, how func(file string) error) {
	tb.Helper()
	if err := how(tierFile(tb, c.tierDir(), path)); err != nil {
		tb.Fatal(err)
	}
}

// waitForTier waits until an object has got to the disk.
func (c *caddy) waitForTier(tb testing.TB, path string) {
	tb.Helper()
	eventually(tb, path+" on disk", func() error {
		found, err := filepath.Glob(filepath.Join(c.tierDir(), "objects", "*", "*-"+strings.TrimPrefix(path, "/")+",*"))
		if err == nil && len(found) != 1 {
			err = fmt.Errorf("found %q", found)
		}
		return err
	})
}

func flipBit(file string) error {
	body, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	body[len(body)/2] ^= 1
	return os.WriteFile(file, body, 0o600)
}

// waysToRead are requests for all or most of a file of 12 MB, and what of it they
// get, by the ways in which Caddy sends it.
var waysToRead = map[string]struct {
	spec     string // of Range
	from, to int
}{
	"whole":  {"", 0, 0},
	"tail":   {"bytes=1-", 1, 0},
	"range":  {"bytes=0-11999999", 0, 12_000_000},
	"middle": {"bytes=5000-11999999", 5000, 12_000_000},
}

// TestDiskEntryCutWhileServed: a client that is being sent a file which somebody
// cuts gets the rest from the origin, whichever way it is sent.
func TestDiskEntryCutWhileServed(t *testing.T) {
	t.Parallel()
	o := r2Origin(t)
	c := startCache(t, o)
	for name, way := range waysToRead {
		p := signedPackage("cut-"+name, 12_000_000)
		o.lay(t, p)
		c.getUntil(t, narPath(p), diskHit)
		s := c.open(t, narPath(p), 1000, header("Range", way.spec))
		change(t, c, narPath(p), func(file string) error { return os.Truncate(file, 11_000_000) })
		s.wantRest(t, p.File[way.from:cmp.Or(way.to, len(p.File))])
		c.getUntil(t, narPath(p), diskHit).wantBody(t, p.File)
	}
}

// TestDiskDirectoryOfOthers: a directory with files that are not the tier's is
// left as it is, and what is served goes past the disk.
func TestDiskDirectoryOfOthers(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	theirs := map[string]string{"staging/release.tar": "precious", "clean": "#!/bin/sh", "notes": "x"}
	for name, text := range theirs {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		writeFile(t, filepath.Join(dir, name), text)
	}
	o := r2Origin(t)
	p, pushed := signedPackage("others", 100_000), signedPackage("others-pushed", 100_000)
	o.lay(t, p)
	c := startOnTier(t, o, dir)
	entry := c.logged(t, "serving without the disk tier")
	ready := c.get(t, "/health/ready")
	ready.wantStatus(t, http.StatusOK)
	if text := string(ready.Body); !strings.Contains(text, "the disk tier is not in use: its directory has files of others") || strings.Contains(text, dir) {
		t.Errorf("%s: %s", ready.Request, text)
	}
	c.wantMetric(t, "disk_tier_open", `cache="nix-cache"`, 0)
	if text := fmt.Sprint(entry["error"]); !strings.Contains(text, "the directory is not empty and no disk tier") || !strings.Contains(text, dir+"/nix-cache-tier") {
		t.Errorf("logged %q, want what is wrong and what to do", text)
	}
	c.get(t, narPath(p)).wantBody(t, p.File)
	c.upload(t, pushed)
	c.stop(t)
	for name, text := range theirs {
		if got := readFile(t, filepath.Join(dir, name)); got != text {
			t.Errorf("%s is %q, was %q", name, got, text)
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != len(theirs) {
		t.Errorf("the directory has %v, %v; want nothing new", entries, err)
	}
}

// TestDiskEntryCutWhileServedByHTTP2: so does one to which the kernel can't copy.
func TestDiskEntryCutWhileServedByHTTP2(t *testing.T) {
	t.Parallel()
	o := r2Origin(t)
	c := startCaddy(t, site("https://localhost", cacheDirective(o)))
	c.logged(t, "certificate obtained successfully")
	p := signedPackage("cut-http2", 12_000_000)
	o.lay(t, p)
	client := &cache{caddy: c, origin: o, base: c.HTTPS, http: c.client(t)}
	client.getUntil(t, narPath(p), diskHit)
	resp, err := client.send(t.Context(), client.http, "GET", narPath(p), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	head := make([]byte, 1000)
	if _, err := io.ReadFull(resp.Body, head); err != nil || resp.ProtoMajor != 2 {
		t.Fatalf("first bytes by %s: %v", resp.Proto, err)
	}
	change(t, client, narPath(p), func(file string) error { return os.Truncate(file, 11_000_000) })
	if err := sameBytes(io.MultiReader(bytes.NewReader(head), resp.Body), p.File); err != nil {
		t.Error(err)
	}
}

// TestTierTooSmall: that no NAR of that size can be kept is told once, with what to
// do, whichever NARs there are.
func TestTierTooSmall(t *testing.T) {
	t.Parallel()
	o := r2Origin(t)
	c := startCache(t, o, "disk "+tempDir(t)+" 8MiB 0")
	for _, name := range []string{"a", "b", "c"} {
		p := signedPackage("larger-than-the-tier-"+name, 10_000_000)
		o.lay(t, p)
		a := c.get(t, narPath(p))
		a.wantHeader(t, "Cache-Status", bypass)
		a.wantBody(t, p.File)
	}
	lines := c.ownLines("warn")
	if len(lines) != 1 || !strings.Contains(lines[0], "set disk to several times the size of the largest NARs") {
		t.Errorf("it is told in %d lines: %q", len(lines), lines)
	}
}

// TestFullDiskIsToldBriefly: reads that a disk can't take have a few lines in the
// log, and one with the number of the others, at a stop at the latest.
func TestFullDiskIsToldBriefly(t *testing.T) {
	t.Parallel()
	o := r2Origin(t)
	c := startOnTier(t, o, mountTmpfs(t, "size=8m"))
	p := signedPackage("larger-than-the-disk", 10_000_000)
	o.lay(t, p)
	const reads, told = 25, 10
	for range reads {
		c.get(t, narPath(p), header("Range", "bytes=5-")).wantBody(t, p.File[5:])
	}
	lines := c.ownLines("warn")
	if len(lines) != told || !strings.Contains(lines[0], bypassed) {
		t.Errorf("%d reads are told in %d lines, want %d: %q", reads, len(lines), told, lines)
	}
	c.stop(t)
	lines = c.ownLines("warn")
	if last := lines[len(lines)-1]; len(lines) != told+1 || !strings.Contains(last, fmt.Sprintf(`"more":%d`, reads-told)) {
		t.Errorf("after the stop there are %d lines, want %d; the last one is %q", len(lines), told+1, last)
	}
}
