package integration

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"testing"

	"github.com/stevedores-org/nix-cache/caddymodule/nix"
	"github.com/stevedores-org/nix-cache/caddymodule/nix/nixtest"
)

// unannounced sends a body without its length.
func unannounced(body []byte) requestOption {
	return func(r *http.Request) {
		r.Body, r.ContentLength, r.GetBody = io.NopCloser(bytes.NewReader(body)), -1, nil
	}
}

// wantWarmNAR checks that a NAR is read from disk, with no request to the bucket.
func (c *cache) wantWarmNAR(tb testing.TB, p nixtest.Package) {
	tb.Helper()
	c.origin.bucket.take()
	a := c.get(tb, narPath(p))
	a.wantStatus(tb, http.StatusOK)
	a.wantHeader(tb, "Cache-Status", diskHit)
	a.wantBody(tb, p.File)
	c.get(tb, narPath(p), header("Range", "bytes=100-")).wantBody(tb, p.File[100:])
	c.head(tb, narPath(p)).wantHeader(tb, "Cache-Status", diskHit)
	c.origin.bucket.wantRequests(tb, narPath(p)[1:])
}

// TestUploadedNARIsOnDisk: the first reader costs R2 nothing.
func TestUploadedNARIsOnDisk(t *testing.T) {
	o := r2Origin(t)
	c := deleter(t, o)
	for name, test := range map[string]func(t *testing.T, p nixtest.Package){
		"announced": func(t *testing.T, p nixtest.Package) {
			c.put(t, narPath(p), p.File).wantStatus(t, http.StatusCreated)
		},
		"not announced": func(t *testing.T, p nixtest.Package) {
			c.put(t, narPath(p), nil, unannounced(p.File)).wantStatus(t, http.StatusCreated)
		},
		"known to be absent": func(t *testing.T, p nixtest.Package) {
			c.get(t, narPath(p)).wantStatus(t, http.StatusNotFound)
			c.put(t, narPath(p), p.File).wantStatus(t, http.StatusCreated)
		},
		"there already": func(t *testing.T, p nixtest.Package) {
			o.lay(t, p)
			c.put(t, narPath(p), p.File).wantStatus(t, http.StatusOK)
		},
		"again": func(t *testing.T, p nixtest.Package) {
			c.put(t, narPath(p), p.File).wantStatus(t, http.StatusCreated)
			c.put(t, narPath(p), nil, unannounced(p.File)).wantStatus(t, http.StatusOK)
		},
		"damaged again": func(t *testing.T, p nixtest.Package) {
			c.put(t, narPath(p), p.File).wantStatus(t, http.StatusCreated)
			c.put(t, narPath(p), p.File[1:]).wantStatus(t, http.StatusUnprocessableEntity)
		},
		"after it was deleted": func(t *testing.T, p nixtest.Package) {
			c.put(t, narPath(p), p.File).wantStatus(t, http.StatusCreated)
			c.delete(t, narPath(p)).wantStatus(t, http.StatusOK)
			c.get(t, narPath(p)).wantStatus(t, http.StatusNotFound)
			c.put(t, narPath(p), p.File).wantStatus(t, http.StatusCreated)
		},
		"by several clients": func(t *testing.T, p nixtest.Package) {
			var pushes sync.WaitGroup
			for range 3 { // R2 takes one write of a key in a second
				pushes.Go(func() {
					if a := c.put(t, narPath(p), p.File); a.Status != http.StatusOK {
						a.wantStatus(t, http.StatusCreated)
					}
				})
			}
			pushes.Wait()
		},
	} {
		t.Run(name, func(t *testing.T) {
			for _, size := range []int{1000, 3_000_000} {
				p := signedPackage("warm-"+nix.EncodeBase32([]byte(name)), size)
				test(t, p)
				c.wantWarmNAR(t, p)
			}
		})
	}
	wantNoFiles(t, c.tierDir()+"/staging")
}

// TestRefusedNARIsNotOnDisk: nothing comes of an upload that was refused or that
// broke off, and it takes up no room.
func TestRefusedNARIsNotOnDisk(t *testing.T) {
	o := r2Origin(t)
	c := startCache(t, o)
	p := signedPackage("warm-refused", 3_000_000)
	wrong := bytes.Clone(p.File)
	wrong[2_000_000] ^= 1
	c.put(t, narPath(p), wrong).wantStatus(t, http.StatusUnprocessableEntity)
	o.bucket.setFault(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if r.Method == http.MethodPut {
			io.Copy(io.Discard, r.Body)
			refuse(w, r, next)
		}
		next.ServeHTTP(w, r)
	})
	c.put(t, narPath(p), p.File).wantStatus(t, http.StatusBadGateway)
	o.bucket.setFault(nil)
	broken := func(r *http.Request) {
		r.Body = io.NopCloser(io.MultiReader(bytes.NewReader(p.File[:2_000_000]), &failing{}))
		r.GetBody = nil
	}
	if _, err := c.try(t, "PUT", narPath(p), p.File, basic(uploadToken), broken); err == nil {
		t.Error("the upload did not break off")
	}
	eventually(t, "uploads are staged in the tier", func() error {
		staged, err := os.ReadDir(c.tierDir() + "/staging")
		if len(staged) > 0 {
			return fmt.Errorf("%v", staged)
		}
		return err
	})
	c.wantMetric(t, "tier_entries", `cache="nix-cache",tier="disk"`, 0)
	c.get(t, narPath(p)).wantStatus(t, http.StatusNotFound)
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errors.New("the client gives up") }

// TestUploadsOnASickDisk: a disk that takes nothing costs no upload.
func TestUploadsOnASickDisk(t *testing.T) {
	t.Parallel()
	for name, fill := range map[string]func(testing.TB, string) (undo func()){
		"full of bytes": fillBytes, "full of inodes": fillInodes, "read-only": mountReadOnly,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := mountTmpfs(t, "size=64m,nr_inodes=400")
			o := r2Origin(t)
			c := startOnTier(t, o, dir+"/tier")
			first, second := signedPackage("sick-1", 3_000_000), signedPackage("sick-2", 3_000_000)
			c.get(t, narPath(first)).wantStatus(t, http.StatusNotFound) // the tier is open
			undo := fill(t, dir)
			c.upload(t, first)
			a := c.get(t, narPath(first))
			a.wantHeader(t, "Cache-Status", bypass)
			a.wantBody(t, first.File)
			c.logged(t, "upload not kept on disk")
			undo()
			c.upload(t, second)
			c.wantWarmNAR(t, second)
		})
	}
}

// TestUploadsLargerThanTheTier: the limit holds while they pass.
func TestUploadsLargerThanTheTier(t *testing.T) {
	o := r2Origin(t)
	dir := tempDir(t)
	c := startCache(t, o, "disk "+dir+" 10MiB 0")
	small, large := signedPackage("tier-small", 1_000_000), signedPackage("tier-large", 12_000_000)
	c.put(t, narPath(small), small.File).wantStatus(t, http.StatusCreated)
	for i, options := range [][]requestOption{nil, {unannounced(large.File)}} {
		c.put(t, narPath(large), large.File, options...).wantStatus(t, []int{http.StatusCreated, http.StatusOK}[i])
		a := c.get(t, narPath(large))
		a.wantHeader(t, "Cache-Status", bypass)
		a.wantBody(t, large.File)
	}
	if used := c.metric(t, "tier_bytes", `cache="nix-cache",tier="disk"`); used > 10<<20 {
		t.Errorf("the tier takes up %.0f bytes", used)
	}
}

// TestUploadsWithoutADiskTier: there is nothing to keep them in.
func TestUploadsWithoutADiskTier(t *testing.T) {
	p := signedPackage("without-tier", 100_000)
	for name, c := range map[string]*cache{"disk off": startCache(t, r2Origin(t), "disk off"), "origin dir": startCache(t, dirOrigin(t))} {
		c.upload(t, p)
		a := c.get(t, narPath(p))
		a.Request += " " + name
		a.wantHeader(t, "Cache-Status", bypass)
		a.wantBody(t, p.File)
	}
}
