package cache

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"testing/iotest"

	"github.com/stevedores-org/nix-cache/caddymodule/cache/disk"
	"github.com/stevedores-org/nix-cache/caddymodule/nix"
	"github.com/stevedores-org/nix-cache/caddymodule/origin"
	"github.com/stevedores-org/nix-cache/caddymodule/origin/origintest"
)

// newReadyBench is a bench whose disk tier has read its names.
func newReadyBench(t *testing.T) *bench {
	b := newBench(t)
	b.cache.Start()
	<-b.cache.disk.Load().Scanned()
	return b
}

// read reads all that a client sends through an upload's reader, as a receiver
// would, and compares it.
func (b *bench) read(in *Incoming, sent []byte) {
	b.Helper()
	got, err := io.ReadAll(in.Tee(bytes.NewReader(sent)))
	if err != nil || !bytes.Equal(got, sent) {
		b.Errorf("read %d bytes of %d, %v", len(got), len(sent), err)
	}
}

// wantNothingStaged fails unless the tier takes up as much as before.
func (b *bench) wantNothingStaged(before disk.Counters) {
	b.Helper()
	staged, err := os.ReadDir(filepath.Join(b.dir, "staging"))
	if err != nil || len(staged) > 0 {
		b.Errorf("staged are %v, %v", staged, err)
	}
	if after := b.cache.Tiers().Disk; after.Bytes > before.Bytes || after.Entries != before.Entries {
		b.Errorf("the tier has %+v, before %+v", after, before)
	}
}

func TestUploadIsOnDisk(t *testing.T) {
	for _, size := range []int{1, 1000, firstRoom, firstRoom + 1, 5*testPart + 12345} {
		for _, announced := range []bool{true, false} {
			t.Run(fmt.Sprint(size, announced), func(t *testing.T) {
				b := newReadyBench(t)
				_, p, pkg := b.put("a", size)
				length := int64(-1)
				if announced {
					length = int64(len(pkg.File))
				}
				in := b.files.Incoming(p, length)
				b.read(in, pkg.File)
				in.Publish()
				in.Drop()
				b.wantGet(p, pkg.File, Disk)
				b.wantOps("open", 0)
				b.wantOps("stat", 0)
				o, err := b.files.Open(t.Context(), p, Wanted{})
				if err != nil {
					t.Fatal(err)
				}
				defer o.Close()
				if _, ok := o.Body.(*os.File); !ok {
					t.Errorf("the body is a %T, which the kernel can't copy from", o.Body)
				}
				b.wantNothingStaged(b.cache.Tiers().Disk)
			})
		}
	}
}

func TestUploadSurvivesARestart(t *testing.T) {
	b := newReadyBench(t)
	_, p, pkg := b.put("a", 3*testPart)
	in := b.files.Incoming(p, -1)
	b.read(in, pkg.File)
	in.Publish()
	b.close()
	benchIn(t, b.dir, b.origin).wantGet(p, pkg.File, Disk)
	b.wantOps("open", 0)
}

// TestUploadThatIsNotKept: what is not known to be whole, right and wanted is
// not in the tier, and takes up nothing.
func TestUploadThatIsNotKept(t *testing.T) {
	for name, upload := range map[string]func(b *bench, p nix.CachePath, file []byte){
		"dropped": func(b *bench, p nix.CachePath, file []byte) {
			in := b.files.Incoming(p, int64(len(file)))
			b.read(in, file)
			in.Drop()
			in.Publish()
		},
		"accepted unread": func(b *bench, p nix.CachePath, file []byte) {
			b.files.Incoming(p, int64(len(file))).Publish()
		},
		"accepted half read": func(b *bench, p nix.CachePath, file []byte) {
			in := b.files.Incoming(p, int64(len(file)))
			io.ReadFull(in.Tee(bytes.NewReader(file)), make([]byte, len(file)/2))
			in.Publish()
		},
		"accepted but for its end": func(b *bench, p nix.CachePath, file []byte) {
			in := b.files.Incoming(p, -1)
			io.ReadFull(in.Tee(bytes.NewReader(file)), make([]byte, len(file)))
			in.Publish()
		},
		"broken off": func(b *bench, p nix.CachePath, file []byte) {
			in := b.files.Incoming(p, int64(len(file)))
			sent := io.MultiReader(bytes.NewReader(file[:1000]), iotest.ErrReader(io.ErrUnexpectedEOF))
			if _, err := io.Copy(io.Discard, in.Tee(sent)); err != io.ErrUnexpectedEOF {
				b.Errorf("read: %v", err)
			}
			in.Publish()
		},
		"deleted before its first byte": func(b *bench, p nix.CachePath, file []byte) {
			in := b.files.Incoming(p, int64(len(file)))
			b.files.Forget(p)
			b.read(in, file)
			in.Publish()
		},
		"deleted after its last": func(b *bench, p nix.CachePath, file []byte) {
			in := b.files.Incoming(p, int64(len(file)))
			b.read(in, file)
			b.files.Forget(p)
			in.Publish()
		},
		"deleted when it was there": func(b *bench, p nix.CachePath, file []byte) {
			in := b.files.Incoming(p, int64(len(file)))
			b.read(in, file)
			in.Publish()
			b.files.Forget(p)
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newReadyBench(t)
			_, p, pkg := b.put("a", 3*testPart)
			before := b.cache.Tiers().Disk
			before.Bytes += 4 * 4096 // a directory may have grown
			upload(b, p, pkg.File)
			b.settle()
			b.wantNothingStaged(before)
			b.wantGet(p, pkg.File, Miss)
		})
	}
}

// TestForgetOfAnotherFile: a deletion concerns what it deletes.
func TestForgetOfAnotherFile(t *testing.T) {
	b := newReadyBench(t)
	other, p, pkg := b.put("a", 1000)
	in := b.files.Incoming(p, -1)
	b.files.Forget(other)
	b.read(in, pkg.File)
	in.Publish()
	b.wantGet(p, pkg.File, Disk)
}

// TestUploadOfWhatIsOnDisk: nothing makes way for a second copy.
func TestUploadOfWhatIsOnDisk(t *testing.T) {
	b := newReadyBench(t)
	_, p, pkg := b.put("a", 3*testPart)
	b.wantGet(p, pkg.File, Miss)
	b.settle()
	before := b.cache.Tiers().Disk
	in := b.files.Incoming(p, int64(len(pkg.File)))
	b.read(in, pkg.File)
	if during := b.cache.Tiers().Disk; during != before {
		t.Errorf("the tier has %+v, before %+v", during, before)
	}
	in.Publish()
	b.wantGet(p, pkg.File, Disk)
}

func TestUploadsOfOneNARSideBySide(t *testing.T) {
	b := newReadyBench(t)
	_, p, pkg := b.put("a", 2*testPart)
	first, second := b.files.Incoming(p, -1), b.files.Incoming(p, int64(len(pkg.File)))
	b.read(first, pkg.File)
	b.read(second, pkg.File)
	first.Publish()
	b.wantGet(p, pkg.File, Disk)
	second.Publish()
	b.wantGet(p, pkg.File, Disk)
	b.wantOps("open", 0)
	if got := b.cache.Tiers().Disk.Entries; got != 1 {
		t.Errorf("%d entries", got)
	}
}

// TestUploadThatFailsBesideOneThatIsPublished: who asks goes on waiting for the
// copy that is about to be there.
func TestUploadThatFailsBesideOneThatIsPublished(t *testing.T) {
	b := newReadyBench(t)
	_, p, pkg := b.put("a", 1000)
	published := newFlight(func() {})
	published.err, published.publishing = errLanded, true
	b.files.supersede(b.files.key(p), published)
	in := b.files.Incoming(p, -1)
	b.read(in, pkg.File)
	in.Drop()
	b.files.Forget(p)
	if f, _ := b.files.join(t.Context(), p, b.files.key(p), b.cache.landed.Load()); f != published {
		t.Error("a fill was begun beside it")
	}
	b.cache.land(b.files.key(p), published)
	close(published.ready)
	b.wantGet(p, pkg.File, Miss)
}

// TestUploadBesideAFill: whichever is first, its bytes are right and stay.
func TestUploadBesideAFill(t *testing.T) {
	b := newReadyBench(t)
	_, p, pkg := b.put("a", 3*testPart)
	in := b.files.Incoming(p, -1)
	gate := b.origin.HoldBody(p.String(), testPart/2)
	o, err := b.files.Open(t.Context(), p, Wanted{})
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	b.read(in, pkg.File)
	in.Publish()
	b.wantGet(p, pkg.File, Disk) // while the fill is held
	gate.Release()
	if got, err := io.ReadAll(o.Body); err != nil || !bytes.Equal(got, pkg.File) {
		t.Errorf("the fill's reader got %d bytes, %v", len(got), err)
	}
	b.settle()
	b.wantGet(p, pkg.File, Disk)
	if got := b.cache.Tiers().Disk.Entries; got != 1 {
		t.Errorf("%d entries", got)
	}
}

// TestUploadEndsAbsence: also one that is just being found out.
func TestUploadEndsAbsence(t *testing.T) {
	b := newReadyBench(t)
	_, p, pkg := b.put("a", 1000)
	b.origin.Remove(p.String())
	wantAbsent(t, b, p, Miss)
	in := b.files.Incoming(p, -1)
	b.read(in, pkg.File)
	b.origin.Put(p.String(), pkg.File)
	wantAbsent(t, b, p, Negative)
	in.Publish()
	b.wantGet(p, pkg.File, Disk)
}

func TestUploadWhileAbsenceIsFoundOut(t *testing.T) {
	b := newReadyBench(t)
	_, p, pkg := b.put("a", 1000)
	b.origin.Remove(p.String())
	asking := make(chan struct{})
	answer := make(chan struct{})
	b.origin.OnOpen(func(path string, _ origin.OpenOptions) error {
		close(asking)
		<-answer
		return fs.ErrNotExist
	})
	asked := make(chan error)
	go func() {
		_, _, err := b.get(p)
		asked <- err
	}()
	<-asking
	in := b.files.Incoming(p, -1)
	b.read(in, pkg.File)
	in.Publish()
	close(answer)
	if err := <-asked; !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("who asked before the upload got %v", err)
	}
	b.settle()
	b.wantGet(p, pkg.File, Disk)
	if _, result, err := b.files.Stat(t.Context(), p); result != Disk || err != nil {
		t.Errorf("Stat = %v, %v", result, err)
	}
}

func TestNoRoomForAnUpload(t *testing.T) {
	const size = 8 << 20
	for _, announced := range []int64{-1, size} {
		t.Run(fmt.Sprint(announced), func(t *testing.T) {
			b := newReadyBench(t)
			b.cache.SetLimits(Limits{Memory: 4 << 20, Disk: disk.Limits{Bytes: disk.MinBytes}})
			_, p, pkg := b.put("a", size)
			in := b.files.Incoming(p, announced)
			b.read(in, pkg.File)
			b.wantNothingStaged(disk.Counters{Bytes: disk.MinBytes})
			in.Publish()
			b.wantGet(p, pkg.File, Bypass)
		})
	}
}

// TestSickDiskUnderAnUpload: the directory is gone, or the file can't be written.
func TestSickDiskUnderAnUpload(t *testing.T) {
	b := newReadyBench(t)
	_, p, pkg := b.put("a", 3*testPart)
	in := b.files.Incoming(p, int64(len(pkg.File)))
	reader := in.Tee(bytes.NewReader(pkg.File))
	if _, err := io.ReadFull(reader, make([]byte, testPart)); err != nil {
		t.Fatal(err)
	}
	in.copy.Close() // every write to it fails from here on
	if rest, err := io.ReadAll(reader); err != nil || !bytes.Equal(rest, pkg.File[testPart:]) {
		t.Errorf("read %d bytes of the rest, %v", len(rest), err)
	}
	in.Publish()
	b.wantNothingStaged(disk.Counters{Bytes: testDisk})
	b.wantGet(p, pkg.File, Miss)
}

// TestUploadsWithoutATier: nothing comes between.
func TestUploadsWithoutATier(t *testing.T) {
	o := origintest.NewMemory()
	b := benchIn(t, "", o)
	_, p, pkg := b.put("a", 1000)
	in := b.files.Incoming(p, -1)
	b.read(in, pkg.File)
	in.Publish()
	b.wantGet(p, pkg.File, Bypass)

	local := b.cache.Namespace("local", o, Policy{}, b.counters, b.files.log)
	in = local.Incoming(p, -1)
	sent := bytes.NewReader(pkg.File)
	if got := in.Tee(sent); got != io.Reader(sent) {
		t.Errorf("before a local origin a %T comes between", got)
	}
	in.Drop()
}

// TestCloseWaitsForUploads: the directory may be another's afterwards.
func TestCloseWaitsForUploads(t *testing.T) {
	b := newReadyBench(t)
	_, p, pkg := b.put("a", 1000)
	in := b.files.Incoming(p, -1)
	late := b.files.Incoming(p, -1)
	b.read(in, pkg.File)
	closed := make(chan struct{})
	go func() {
		b.close()
		close(closed)
	}()
	b.until("it is closing", func() bool {
		b.cache.mu.Lock()
		defer b.cache.mu.Unlock()
		return b.cache.mu.closing
	})
	b.read(late, pkg.File)
	late.Publish()
	select {
	case <-closed:
		t.Error("closed while an upload was written to the tier")
	default:
	}
	in.Publish()
	<-closed
	again := benchIn(t, b.dir, b.origin)
	again.wantGet(p, pkg.File, Disk)
}
