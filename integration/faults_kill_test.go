package integration

import (
	"encoding/binary"
	"fmt"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/stevedores-org/nix-cache/caddymodule/nix"
	"github.com/stevedores-org/nix-cache/caddymodule/nix/nixtest"
)

// killSize is that of a NAR of two parts, and its points of the bodies of a
// push where Caddy is killed, each in a round of its own.
const killSize = 7_000_000

var killBytes = []int64{1, 100_000, 5 << 20, 5<<20 + 1, killSize - 1, killSize + 300}

// bomb kills Caddy at the n-th of what it is shown.
type bomb struct {
	c     *cache
	tb    testing.TB
	left  atomic.Int64
	after bool          // an origin's request has taken effect
	gone  chan struct{} // closed once Caddy is dead
}

func newBomb(tb testing.TB, c *cache, n int) *bomb {
	b := &bomb{c: c, tb: tb, gone: make(chan struct{})}
	b.left.Store(int64(n))
	return b
}

// next counts, and says whether this is the one.
func (b *bomb) next() bool { return b.left.Add(-1) == 0 }

func (b *bomb) explode() {
	b.c.kill(b.tb)
	close(b.gone)
}

// exploded says whether it has, or is about to: then Caddy is dead by now.
func (b *bomb) exploded() bool {
	if b.left.Load() > 0 {
		return false
	}
	await(b.tb, "a killed Caddy", b.gone)
	return true
}

// fault counts an origin's requests.
func (b *bomb) fault(w http.ResponseWriter, r *http.Request, next http.Handler) {
	if !b.next() {
		next.ServeHTTP(w, r)
		return
	}
	if b.after {
		next.ServeHTTP(&noAnswer{make(http.Header)}, r)
	}
	b.explode()
	panic(http.ErrAbortHandler)
}

// push uploads a package as far as that goes.
func push(tb testing.TB, c *cache, p nixtest.Package, options ...requestOption) {
	if _, err := c.try(tb, "PUT", narPath(p), p.File, append(options, basic(uploadToken))...); err == nil {
		c.try(tb, "PUT", narinfoPath(p), p.Text(), basic(uploadToken))
	}
}

// wantRecovery checks what a killed Caddy left, and that the same push succeeds.
func (o *testOrigin) wantRecovery(tb testing.TB, c *cache, p nixtest.Package, known map[string]bool) {
	tb.Helper()
	o.wantWhole(tb, known)
	o.wantSigned(tb, p)
	c.run(tb)
	repeatPush(tb, c, p)
	if o.dir != "" {
		wantNoFiles(tb, o.dir+"/.staging")
	}
	o.wantWhole(tb, known)
}

// wantSigned checks the narinfo of a package, if it is there.
func (o *testOrigin) wantSigned(tb testing.TB, p nixtest.Package) {
	tb.Helper()
	path := narinfoPath(p)[1:]
	for _, there := range o.paths(tb) {
		if there != path {
			continue
		}
		n, err := nix.ParseNARInfo(o.read(tb, path))
		if err != nil {
			tb.Fatal(err)
		}
		key, err := nix.ParsePublicKey(testPublicKey)
		if err != nil {
			tb.Fatal(err)
		}
		keys, err := nix.NewPublicKeys(key)
		if err != nil {
			tb.Fatal(err)
		}
		if _, err := keys.Verify(n); err != nil {
			tb.Errorf("the origin has %s: %v", path, err)
		}
	}
}

// TestKilledAtEachRequest: before and after each request of a push, the last
// one of which is past its end.
func TestKilledAtEachRequest(t *testing.T) {
	t.Parallel()
	o := smallParts(t)
	c := startCache(t, o)
	known := make(map[string]bool)
	for n := 1; ; n++ {
		exploded := false
		for _, after := range []bool{false, true} {
			p := signedPackage(fmt.Sprintf("killed-%d-%v", n, after), killSize)
			b := newBomb(t, c, n)
			b.after = after
			o.bucket.setFault(b.fault)
			push(t, c, p)
			o.bucket.setFault(nil)
			if b.exploded() {
				exploded = true
				o.wantRecovery(t, c, p, known)
			}
		}
		if !exploded {
			const least = 6 // create, two parts, complete, what is asked about the narinfo, and its put
			if n <= least {
				t.Errorf("a push is %d requests, want %d at least", n-1, least)
			}
			t.Logf("killed at each of %d requests, twice", n-1)
			return
		}
	}
}

// TestKilledAtEachByte: not each one, but where something ends or begins.
func TestKilledAtEachByte(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(testing.TB) *testOrigin{"dir": dirOrigin, "r2": smallParts} {
		t.Run("origin="+name, func(t *testing.T) {
			t.Parallel()
			o := start(t)
			c := startCache(t, o)
			known := make(map[string]bool)
			for _, at := range killBytes {
				p := signedPackage(fmt.Sprint("killed-at-byte-", at), killSize)
				wire := newTripwire(at)
				clients := new(sync.WaitGroup)
				clients.Go(func() {
					if _, err := c.try(t, "PUT", narPath(p), p.File, basic(uploadToken), wire.body(p.File)); err == nil {
						c.try(t, "PUT", narinfoPath(p), p.Text(), basic(uploadToken), wire.body(p.Text()))
					}
				})
				killDuring(t, c, wire, clients)
				o.wantRecovery(t, c, p, known)
			}
		})
	}
}

// TestKilledAtEachFile: a directory shows what happens to its files one by one,
// and Caddy is killed at once.
func TestKilledAtEachFile(t *testing.T) {
	t.Parallel()
	o := dirOrigin(t)
	c := startCache(t, o)
	c.upload(t, signedPackage("killed-first", 100)) // makes the folders
	known := make(map[string]bool)
	for n := 1; ; n++ {
		p := signedPackage(fmt.Sprint("killed-at-file-", n), killSize)
		b := newBomb(t, c, n)
		ended := watchFiles(t, b, o.dir, o.dir+"/nar", o.dir+"/.staging")
		push(t, c, p)
		ended()
		if !b.exploded() {
			const least = 4 // made and published, NAR and narinfo
			if n <= least {
				t.Errorf("a push shows as %d events, want %d at least", n-1, least)
			}
			t.Logf("killed at each of %d events", n-1)
			return
		}
		o.wantRecovery(t, c, p, known)
	}
}

// watchFiles shows a bomb what happens to the files in some folders, until ended.
func watchFiles(tb testing.TB, b *bomb, folders ...string) (ended func()) {
	tb.Helper()
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		tb.Fatal(err)
	}
	for _, folder := range folders {
		const mask = unix.IN_CREATE | unix.IN_CLOSE_WRITE | unix.IN_MOVED_FROM | unix.IN_MOVED_TO | unix.IN_DELETE
		if _, err := unix.InotifyAddWatch(fd, folder, mask); err != nil {
			tb.Fatal(err)
		}
	}
	events := os.NewFile(uintptr(fd), "inotify")
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 4096)
		for {
			n, err := events.Read(buf)
			if err != nil {
				return
			}
			for at := 0; at < n; { // see inotify(7)
				at += unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(buf[at+unix.SizeofInotifyEvent-4:]))
				if b.next() {
					b.explode()
				}
			}
		}
	}()
	return func() {
		events.Close()
		<-done
	}
}
