package integration

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stevedores-org/nix-cache/caddymodule/nix/nixtest"
)

// freeze makes every write to a file system hang until it is thawed.
func freeze(tb testing.TB, dir string) (thaw func()) {
	tb.Helper()
	command(tb, "fsfreeze", "--freeze", dir)
	thaw = sync.OnceFunc(func() { command(tb, "fsfreeze", "--unfreeze", dir) })
	tb.Cleanup(thaw)
	return thaw
}

// soon is how long anything may take beside a disk that hangs.
const soon = time.Second

// within fails the test if something takes longer than it may.
func within(tb testing.TB, what string, most time.Duration, do func()) {
	tb.Helper()
	begun := time.Now()
	do()
	if took := time.Since(begun); took > most {
		tb.Errorf("%s took %v", what, took)
	}
}

// TestDiskHangs: cold NARs that wait for the disk don't hold up what needs none;
// then all goes on without the disk, and with it again when it answers.
func TestDiskHangs(t *testing.T) {
	dir := mountExt4(t, 400<<20)
	o := r2Origin(t)
	c := startFastCache(t, o, "disk "+dir+"/tier 300MiB 0")
	warm, pushed, after := signedPackage("freeze-warm", 3_000_000), signedPackage("freeze-pushed", 3_000_000), signedPackage("freeze-after", 3_000_000)
	o.lay(t, warm)
	o.lay(t, after)
	warmUp(t, c, warm)
	cold, narinfos := layMany(t, o, "freeze-cold", 100, 300_000), layMany(t, o, "freeze-narinfo", 20, 1000)
	upload := nixtest.NewStream("freeze-upload", 150_000_000) // more than the memory for parts

	thaw := freeze(t, dir)
	var clients sync.WaitGroup
	var slowest atomic.Int64
	for _, p := range cold {
		clients.Go(func() {
			begun := time.Now()
			c.get(t, narPath(p)).wantBody(t, p.File)
			for took := int64(time.Since(begun)); took > slowest.Load(); {
				slowest.Store(took)
			}
		})
	}
	clients.Go(func() { c.send201(t, upload, upload.Reader()) })
	for _, p := range narinfos {
		within(t, "a narinfo", soon, func() { c.get(t, narinfoPath(p)).wantBody(t, p.Text()) })
		within(t, "readiness", soon, func() { c.get(t, "/health/ready").wantStatus(t, http.StatusOK) })
	}
	clients.Wait()
	t.Logf("the slowest of %d cold NARs took %v", len(cold), time.Duration(slowest.Load()))
	if took := time.Duration(slowest.Load()); took > 15*time.Second {
		t.Errorf("a cold NAR took %v", took)
	}
	c.logged(t, "the disk of the tier does not answer")
	within(t, "an upload", soon, func() { c.upload(t, pushed) })
	within(t, "a NAR", soon, func() {
		a := c.get(t, narPath(warm))
		a.wantHeader(t, "Cache-Status", bypass)
		a.wantBody(t, warm.File)
	})
	within(t, "readiness", soon, func() { c.get(t, "/health/ready").wantStatus(t, http.StatusOK) })
	if ready := c.get(t, "/health/ready"); !strings.Contains(string(ready.Body), "its disk does not answer") {
		t.Errorf("readiness says %s", ready.Body)
	}
	if open := c.metric(t, "disk_tier_open", `cache="nix-cache"`); open != 0 {
		t.Error("the tier is said to be in use")
	}
	if threads := c.status(t, "Threads:"); threads>>10 > 120 {
		t.Errorf("%d threads", threads>>10)
	}

	thaw()
	c.logged(t, "the disk of the tier answers again")
	wantStored(t, c, after)
	wantWarm(t, c, warm)
	eventually(t, "what was given up is deleted", func() error {
		if staged, err := os.ReadDir(dir + "/tier/staging"); err != nil || len(staged) > 0 {
			return fmt.Errorf("%v, %v", staged, err)
		}
		return nil
	})
}

// TestDiskHangsUnderAFill: its readers go on with the origin.
func TestDiskHangsUnderAFill(t *testing.T) {
	dir := mountExt4(t, 200<<20)
	o := r2Origin(t)
	c := startFastCache(t, o, "disk "+dir+"/tier 100MiB 0")
	p := signedPackage("freeze-fill", 30_000_000)
	o.lay(t, p)
	release := o.bucket.hold()
	defer release()
	s := c.open(t, narPath(p), 1000)
	thaw := freeze(t, dir)
	release()
	s.wantRest(t, p.File)
	thaw()
	c.getUntil(t, narPath(p), diskHit).wantBody(t, p.File)
}

// TestDiskHangsAtTheStart: Caddy serves without the tier, and takes it when it can.
func TestDiskHangsAtTheStart(t *testing.T) {
	dir := mountExt4(t, 100<<20)
	o := r2Origin(t)
	p := signedPackage("freeze-start", 100_000)
	o.lay(t, p)
	thaw := freeze(t, dir)
	c := startFastCache(t, o, "disk "+dir+"/tier 50MiB 0")
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	if _, err := c.fetch(ctx, "GET", narPath(p), p.File); err != nil {
		t.Error(err)
	}
	thaw()
	c.getUntil(t, narPath(p), diskHit).wantBody(t, p.File)
}
