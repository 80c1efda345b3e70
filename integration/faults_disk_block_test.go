package integration

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/stevedores-org/nix-cache/caddymodule/nix/nixtest"
)

// mountBtrfs mounts a btrfs, which has a checksum of each block, on a file.
func mountBtrfs(tb testing.TB) (dir, image string) {
	tb.Helper()
	dir, image = tempDir(tb), filepath.Join(tempDir(tb), "image")
	writeFile(tb, image, "")
	if err := os.Truncate(image, 300<<20); err != nil {
		tb.Fatal(err)
	}
	for _, command := range [][]string{{"mkfs.btrfs", "-q", image}, {"mount", "-o", "loop", image, dir}} {
		if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
			tb.Fatalf("%s: %v: %s", command, err, out)
		}
	}
	tb.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			tb.Errorf("umount: %v: %s", err, out)
		}
	})
	return dir, image
}

// spoilBelow overwrites a block of a file below the file system, and has the
// kernel forget what it has of the file.
func spoilBelow(tb testing.TB, image, file string, block []byte) {
	tb.Helper()
	f, err := os.Open(file)
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		tb.Fatal(err)
	}
	disk, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		tb.Fatal(err)
	}
	defer disk.Close()
	content, err := io.ReadAll(disk)
	if err != nil {
		tb.Fatal(err)
	}
	at := bytes.Index(content, block)
	if at < 0 {
		tb.Fatalf("%s is not on the disk", file)
	}
	if _, err := disk.WriteAt(make([]byte, len(block)), int64(at)); err != nil {
		tb.Fatal(err)
	}
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		tb.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, f); !errors.Is(err, unix.EIO) {
		tb.Fatalf("read of the spoilt file: %v, want EIO", err)
	}
}

// badBlock is where the tests below have the disk fail.
const badBlock = 8_000_000 &^ 4095

// uploadToDisk brings a package to disk without a client that has had it whole: one
// that comes again would have the file hashed first.
func (c *cache) uploadToDisk(tb testing.TB, p nixtest.Package) {
	tb.Helper()
	c.upload(tb, p)
	c.awaitOnDisk(tb, p)
}

// awaitOnDisk waits until a NAR is on disk, without asking for its body.
func (c *cache) awaitOnDisk(tb testing.TB, p nixtest.Package) {
	tb.Helper()
	eventually(tb, "the NAR on disk", func() error {
		if got := c.head(tb, narPath(p)).Header.Get("Cache-Status"); got != diskHit {
			return fmt.Errorf("Cache-Status is %q", got)
		}
		return nil
	})
}

// TestDiskBlockUnreadable: a client that is sent a file of which the disk can't
// read a block gets the rest from the origin, and who comes next all of it.
func TestDiskBlockUnreadable(t *testing.T) {
	t.Parallel()
	dir, image := mountBtrfs(t)
	o := r2Origin(t)
	c := startOnTier(t, o, dir+"/tier")
	for name, way := range waysToRead {
		p := signedPackage("unreadable-"+name, 12_000_000)
		c.uploadToDisk(t, p)
		spoilBelow(t, image, tierFile(t, dir+"/tier", narPath(p)), p.File[badBlock:badBlock+4096])
		o.bucket.take()
		a := c.get(t, narPath(p), header("Range", way.spec))
		a.wantHeader(t, "Cache-Status", diskHit)
		a.wantBody(t, p.File[way.from:cmp.Or(way.to, len(p.File))])
		o.bucket.wantRequests(t, narPath(p)[1:], "GET")
		c.getUntil(t, narPath(p), diskHit).wantBody(t, p.File)
	}
	c.logged(t, "disk tier entry dropped: it can't be read")

	wrong := signedPackage("unreadable-and-damaged", 12_000_000)
	c.uploadToDisk(t, wrong)
	spoilBelow(t, image, tierFile(t, dir+"/tier", narPath(wrong)), wrong.File[badBlock:badBlock+4096])
	o.bucket.setFault(func(w http.ResponseWriter, r *http.Request, next http.Handler) { next.ServeHTTP(&flipWriter{w}, r) })
	if a, err := c.try(t, "GET", narPath(wrong), nil); err == nil {
		t.Errorf("%s: %d wrong bytes that look whole", a.Request, len(a.Body))
	}
}

// TestDiskGone: so it is where nothing of a file can be read, and what follows is
// served past the disk.
func TestDiskGone(t *testing.T) {
	t.Parallel()
	dir, image := mountBtrfs(t)
	o := r2Origin(t)
	c := startOnTier(t, o, dir+"/tier")
	p, cold := signedPackage("gone", 12_000_000), signedPackage("gone-cold", 3_000_000)
	o.lay(t, cold)
	c.uploadToDisk(t, p)
	file := tierFile(t, dir+"/tier", narPath(p))
	spoilBelow(t, image, file, p.File[4096:8192])
	if err := os.Truncate(image, 0); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		a := c.get(t, narPath(p))
		a.wantStatus(t, http.StatusOK)
		a.wantBody(t, p.File)
		c.get(t, narPath(cold)).wantBody(t, cold.File)
	}
}

// TestDiskBlockUnreadableForNix: both Nix versions get such a package.
func TestDiskBlockUnreadableForNix(t *testing.T) {
	t.Parallel()
	dir, image := mountBtrfs(t)
	o := r2Origin(t)
	c := startOnTier(t, o, dir+"/tier")
	forEachNix(t, func(t *testing.T, flavor nixFlavor) {
		p := signedPackage("unreadable-for-"+flavor.name, 12_000_000)
		c.uploadToDisk(t, p)
		spoilBelow(t, image, tierFile(t, dir+"/tier", narPath(p)), p.File[badBlock:badBlock+4096])
		newNixClient(t, flavor).pull(t, c.HTTP, p.NARInfo.StorePath.String())
	})
}

// TestDiskEntryFlippedUnnoticed: a disk may lose a bit and change no times. Who
// asks again for a file has it hashed first.
func TestDiskEntryFlippedUnnoticed(t *testing.T) {
	t.Parallel()
	o := r2Origin(t)
	c := startCache(t, o)
	p := signedPackage("flipped-unnoticed", 3_000_000)
	o.lay(t, p)
	c.get(t, narPath(p)).wantBody(t, p.File)
	c.awaitOnDisk(t, p)
	change(t, c, narPath(p), flipBitUnnoticed)
	a := c.get(t, narPath(p))
	a.wantHeader(t, "Cache-Status", stored)
	a.wantBody(t, p.File)
	c.logged(t, "its bytes are not the ones that were stored")
	c.getUntil(t, narPath(p), diskHit).wantBody(t, p.File)
}

// flipBitUnnoticed changes a file as a disk does.
func flipBitUnnoticed(file string) error {
	before, err := os.Stat(file)
	if err != nil {
		return err
	}
	if err := flipBit(file); err != nil {
		return err
	}
	return os.Chtimes(file, before.ModTime(), before.ModTime())
}
