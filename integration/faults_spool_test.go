package integration

import (
	"fmt"
	"io"
	"net/http"
	"sync"
	"testing"

	"github.com/stevedores-org/nix-cache/caddymodule/nix/nixtest"
)

// TestUploadsOnASmallDisk: parts of uploads keep to the tier's limit and to the
// free space, and uploads get through where they have no room, and where others
// have taken the rest of the disk.
func TestUploadsOnASmallDisk(t *testing.T) {
	const (
		minFree = 60 << 20
		halting = 9
		size    = 15_000_000 // less than a part
	)
	dir := mountExt4(t, 200<<20)
	o := r2Origin(t)
	c := startFastCache(t, o, "disk "+dir+"/tier 80MiB 60MiB")
	c.get(t, "/nix-cache-info").wantStatus(t, http.StatusOK)
	before := usedBytes(t, dir)

	goOn := make(chan struct{})
	var halted, clients sync.WaitGroup
	for i := range halting {
		s := nixtest.NewStream(fmt.Sprint("small-disk-", i), size)
		halted.Add(1)
		body := &haltingReader{r: s.Reader(), at: size * 9 / 10, halted: halted.Done, goOn: goOn}
		clients.Go(func() { c.send201(t, s, body) })
	}
	halted.Wait()
	push := func(name string) {
		for i := range 4 {
			s := nixtest.NewStream(fmt.Sprint("small-disk-", name, i), 2*size)
			c.send201(t, s, s.Reader())
		}
	}
	push("limit")
	if used := usedBytes(t, dir) - before; used > 80<<20 {
		t.Errorf("%d MiB of the disk are in use, with a limit of 80", used>>20)
	}
	if memory, disk := c.metric(t, "spool_bytes", `cache="nix-cache",place="memory"`), c.metric(t, "spool_bytes", `cache="nix-cache",place="disk"`); memory+disk < halting*size*8/10 || disk == 0 {
		t.Errorf("%.0f bytes are spooled in memory and %.0f on disk", memory, disk)
	}
	if free := freeBytes(t, dir); free < minFree {
		t.Errorf("%d MiB are free, %d are to be kept", free>>20, minFree>>20)
	}
	undo := fillBytes(t, dir)
	push("full")
	undo()
	close(goOn)
	clients.Wait()
	if spooled := c.metric(t, "spool_bytes", `cache="nix-cache",place="disk"`); spooled != 0 {
		t.Errorf("%.0f bytes are still spooled", spooled)
	}
}

// send201 uploads a NAR.
func (c *cache) send201(tb testing.TB, s nixtest.Stream, body io.Reader) {
	a, err := c.try(tb, "PUT", "/"+s.NARInfo.URL(), nil, basic(uploadToken), func(r *http.Request) {
		r.Body, r.ContentLength, r.GetBody = io.NopCloser(body), s.NARInfo.NARSize, nil
	})
	if err != nil {
		tb.Errorf("%s: %v", a.Request, err)
		return
	}
	a.wantStatus(tb, http.StatusCreated)
}
