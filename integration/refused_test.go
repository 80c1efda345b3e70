package integration

import (
	"bytes"
	"fmt"
	"net/http"
	"testing"

	"github.com/stevedores-org/nix-cache/caddymodule/nix"
	"github.com/stevedores-org/nix-cache/caddymodule/nix/nixtest"
)

// TestRefusedUploadsChangeNothing: what is cached goes on being served, in an
// outage too, after uploads that were refused or that nothing was sent of.
func TestRefusedUploadsChangeNothing(t *testing.T) {
	t.Parallel()
	o := r2Origin(t)
	c := deleter(t, o)
	p := signedPackage("refused", 100_000)
	o.lay(t, p)
	served := func(when string) {
		t.Helper()
		o.bucket.take()
		for path, body := range map[string][]byte{narinfoPath(p): p.Text(), narPath(p): p.File} {
			a := c.get(t, path)
			a.Request += " " + when
			a.wantStatus(t, http.StatusOK)
			a.wantBody(t, body)
		}
		if requests := o.bucket.take(); len(requests) > 0 {
			t.Errorf("%s: requests to the bucket: %v", when, requests)
		}
	}
	c.getUntil(t, narinfoPath(p), memoryHit)
	c.getUntil(t, narPath(p), diskHit)

	c.put(t, narinfoPath(p), []byte("garbage\n")).wantStatus(t, http.StatusBadRequest)
	served("after a malformed narinfo")
	c.put(t, narPath(p), p.File[1:]).wantStatus(t, http.StatusUnprocessableEntity)
	served("after another NAR")
	c.put(t, narinfoPath(p), p.Text(), basic("wrong")).wantStatus(t, http.StatusForbidden)
	served("after a wrong token")

	o.bucket.setFault(refuse)
	c.put(t, narinfoPath(p), p.Text()).wantStatus(t, http.StatusBadGateway)
	c.put(t, narPath(p), p.File).wantStatus(t, http.StatusBadGateway)
	served("in an outage")
	c.delete(t, narinfoPath(p)).wantStatus(t, http.StatusBadGateway)
	c.delete(t, narPath(p)).wantStatus(t, http.StatusBadGateway)
	served("after a deletion in an outage")
}

// TestRefusedNARsLeaveFillsAlone: readers between uploads that are refused have
// one download in common.
func TestRefusedNARsLeaveFillsAlone(t *testing.T) {
	t.Parallel()
	o := r2Origin(t)
	c := startCache(t, o)
	p := signedPackage("refused-beside-a-fill", 500_000)
	o.lay(t, p)
	wrong := bytes.Clone(p.File)
	wrong[0] ^= 1
	asked, release := o.bucket.holdAnswers(isDownload)
	const readers = 5
	answers := make(chan answer)
	for i := range readers {
		go func() {
			a, err := c.try(t, "GET", narPath(p), nil)
			if err != nil {
				t.Error(err)
			}
			answers <- a
		}()
		if i == 0 {
			<-asked
		}
		c.put(t, narPath(p), wrong).wantStatus(t, http.StatusUnprocessableEntity)
	}
	release()
	for range readers {
		(<-answers).wantBody(t, p.File)
	}
	var downloads int
	for _, r := range o.bucket.take() {
		if r.Method == http.MethodGet && r.Range != "bytes=0-0" {
			downloads++
		}
	}
	if downloads != 1 {
		t.Errorf("%d downloads for %d readers", downloads, readers)
	}
}

// TestNARsAreMeasuredOnce: a narinfo that says something wrong of a large NAR costs
// one reading of it, however often and with whatever claim it comes.
func TestNARsAreMeasuredOnce(t *testing.T) {
	t.Parallel()
	o := r2Origin(t)
	c := startCache(t, o)
	nar := nixtest.Zstd(signedPackage("measured", 5_000_000).NAR)
	o.bucket.take()
	var read int
	for i := range 4 {
		claim := signedPackage(fmt.Sprint("measured-as-", i), 5_000_000+1000*i, nixtest.Compressed(nix.CompressionZstd, func([]byte) []byte { return nar }))
		if i == 0 {
			o.put(t, narPath(claim)[1:], nar)
		}
		for range 2 {
			c.put(t, narinfoPath(claim), claim.Text()).wantRefusal(t, http.StatusUnprocessableEntity, "decompresses to")
		}
	}
	for _, r := range o.bucket.take() {
		if r.Method == http.MethodGet && r.Range != "bytes=0-0" {
			read++
		}
	}
	if read != 1 {
		t.Errorf("the NAR was read %d times", read)
	}
}
