package integration

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/stevedores-org/nix-cache/caddymodule/nix/nixtest"
)

// mountExt4 mounts a new ext4 file system of so many bytes from a loop device.
func mountExt4(tb testing.TB, size int64, options ...string) (dir string) {
	tb.Helper()
	dir = tempDir(tb)
	image := tempDir(tb) + "/image"
	writeFile(tb, image, "")
	if err := os.Truncate(image, size); err != nil {
		tb.Fatal(err)
	}
	command(tb, append([]string{"mkfs.ext4", "-q", "-m", "0"}, append(options, image)...)...)
	command(tb, "mount", "-o", "loop", image, dir)
	tb.Cleanup(func() { unmount(tb, dir) })
	return dir
}

func command(tb testing.TB, args ...string) {
	tb.Helper()
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		tb.Fatalf("%q: %v: %s", args, err, out)
	}
}

// usedBytes is what `df` says is used of a file system, and freeBytes what is
// available.
func usedBytes(tb testing.TB, dir string) int64 {
	st := statfs(tb, dir)
	return int64(st.Blocks-st.Bfree) * st.Bsize
}

func freeBytes(tb testing.TB, dir string) int64 {
	st := statfs(tb, dir)
	return int64(st.Bavail) * st.Bsize
}

func statfs(tb testing.TB, dir string) (st unix.Statfs_t) {
	tb.Helper()
	if err := unix.Statfs(dir, &st); err != nil {
		tb.Fatal(err)
	}
	return st
}

// layMany lays packages of a size at the origin.
func layMany(tb testing.TB, o *testOrigin, name string, n, size int) (packages []nixtest.Package) {
	tb.Helper()
	for i := range n {
		p := signedPackage(fmt.Sprint(name, "-", i), size)
		o.lay(tb, p)
		packages = append(packages, p)
	}
	return packages
}

// TestSlowReadersOnASmallTier: what they have open counts as long as they do, and
// other files make way.
func TestSlowReadersOnASmallTier(t *testing.T) {
	t.Parallel()
	const size, slow = 12 << 20, 2
	for name, tier := range map[string]string{
		"limit":    "40MiB 0",
		"min free": "1GiB 135MiB", // of 185 or so
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := mountExt4(t, 200<<20)
			o := r2Origin(t)
			packages := layMany(t, o, "slow", 8, size)
			before := usedBytes(t, dir)
			c := startCache(t, o, "disk "+dir+"/tier "+tier)
			var readers []*stream
			for _, p := range packages[:slow] {
				c.getUntil(t, narPath(p), diskHit)
				readers = append(readers, c.open(t, narPath(p), 1000))
			}
			for _, p := range packages[slow:] {
				c.getUntil(t, narPath(p), diskHit).wantBody(t, p.File)
				if used := usedBytes(t, dir) - before; name == "limit" && used > 40<<20 {
					t.Errorf("the file system has %d MiB more in use, with a limit of 40", used>>20)
				}
				if free := freeBytes(t, dir); name == "min free" && free < 135<<20 {
					t.Errorf("the file system has %d MiB free, 135 are to be kept", free>>20)
				}
			}
			for i, r := range readers {
				r.wantRest(t, packages[i].File)
			}
			c.get(t, narPath(packages[0])).wantHeader(t, "Cache-Status", diskHit)
		})
	}
}

// TestInodesRunOut: the file system has space, but no room for more files.
func TestInodesRunOut(t *testing.T) {
	t.Parallel()
	dir := mountExt4(t, 64<<20, "-N", "128")
	o := r2Origin(t)
	c := startOnTier(t, o, dir+"/tier")
	for _, p := range layMany(t, o, "inodes", 150, 20_000) {
		c.get(t, narPath(p)).wantBody(t, p.File)
		c.getUntil(t, narPath(p), diskHit).wantBody(t, p.File)
	}
	if st := statfs(t, dir); st.Ffree > 10 {
		t.Errorf("%d inodes are free: the test does not test anything", st.Ffree)
	}
	if n := c.metric(t, "tier_entries", `cache="nix-cache",tier="disk"`); n < 20 {
		t.Errorf("%v files in the tier", n)
	}
}

// TestUploadEvictsNothingThatIsAskedFor: neither by what it announces, nor by what
// it sends.
func TestUploadEvictsNothingThatIsAskedFor(t *testing.T) {
	o := r2Origin(t)
	dir := tempDir(t) + "/tier"
	c := startCache(t, o, "disk "+dir+" 40MiB 0")
	hot, once := layMany(t, o, "hot", 10, 1<<20), layMany(t, o, "once", 20, 1<<20)
	for _, p := range slices.Concat(hot, once) {
		c.get(t, narPath(p)).wantBody(t, p.File)
	}
	for _, p := range hot {
		c.getUntil(t, narPath(p), diskHit)
	}
	evictions := func() float64 { return c.metric(t, "evictions_total", `cache="nix-cache",tier="disk"`) }
	before := evictions()
	p := signedPackage("pushed", 35<<20)
	body, sender := io.Pipe()
	request, err := http.NewRequestWithContext(t.Context(), "PUT", c.base+narPath(p), body)
	if err != nil {
		t.Fatal(err)
	}
	request.SetBasicAuth("", uploadToken)
	request.ContentLength = int64(len(p.File))
	answered := make(chan error, 1)
	go func() {
		resp, err := c.http.Do(request)
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode != http.StatusCreated {
				err = fmt.Errorf("status %d", resp.StatusCode)
			}
		}
		answered <- err
	}()
	sender.Write(p.File[:1])
	eventually(t, "a copy is begun", func() error {
		if staged, err := os.ReadDir(dir + "/staging"); err != nil || len(staged) == 0 {
			return fmt.Errorf("staged: %v, %v", staged, err)
		}
		return nil
	})
	if n := evictions() - before; n > 0 {
		t.Errorf("one byte of an upload evicted %v files", n)
	}
	sender.Write(p.File[1:])
	sender.Close()
	if err := <-answered; err != nil {
		t.Errorf("the upload: %v", err)
	}
	for _, p := range hot {
		c.get(t, narPath(p)).wantHeader(t, "Cache-Status", diskHit)
	}
}

// TestDiskRotsWhileNobodyLooks: an idle cache finds bytes that have changed with no
// time that tells.
func TestDiskRotsWhileNobodyLooks(t *testing.T) {
	t.Parallel()
	o := r2Origin(t)
	c := startCache(t, o)
	good, rotten := signedPackage("scrub-good", 300_000), signedPackage("scrub-rotten", 300_000)
	for _, p := range []nixtest.Package{good, rotten} {
		o.lay(t, p)
		warmUp(t, c, p)
	}
	file := tierFile(t, c.tierDir(), narPath(rotten))
	before, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(flipBit(file), os.Chtimes(file, before.ModTime(), before.ModTime())); err != nil {
		t.Fatal(err)
	}
	entry := c.logged(t, "disk tier entry dropped: a scrub found it damaged")
	if text := fmt.Sprint(entry["file"]); !strings.Contains(text, strings.TrimPrefix(narPath(rotten), "/nar/")) {
		t.Errorf("the log names %s", text)
	}
	o.bucket.take()
	c.get(t, narPath(good)).wantHeader(t, "Cache-Status", diskHit)
	c.get(t, narPath(rotten)).wantBody(t, rotten.File)
	o.bucket.wantRequests(t, narPath(rotten)[1:], "GET")
	c.getUntil(t, narPath(rotten), diskHit).wantBody(t, rotten.File)
}
