package integration

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/stevedores-org/nix-cache/caddymodule/nix/nixtest"
)

// remove takes an object from the origin behind the cache's back.
func (o *testOrigin) remove(tb testing.TB, path string) {
	tb.Helper()
	var err error
	if o.bucket != nil {
		_, err = o.bucket.direct.DeleteObject(tb.Context(), &s3.DeleteObjectInput{Bucket: aws.String(bucketName), Key: &path})
	} else {
		err = os.Remove(filepath.Join(o.dir, path))
	}
	if err != nil {
		tb.Fatal(err)
	}
}

// TestPushAgainHeals: what the bucket has lost, the next push brings back, though
// the tiers have it.
func TestPushAgainHeals(t *testing.T) {
	o := r2Origin(t)
	c := startCache(t, o)
	forEachNix(t, func(t *testing.T, flavor nixFlavor) {
		for name, lost := range map[string]string{"NARs": ".nar.xz", "narinfos": ".narinfo", "both": ""} {
			t.Run(name, func(t *testing.T) {
				builder, user := newNixClient(t, flavor), newNixClient(t, flavor)
				root := builder.signedClosure(t)
				builder.push(t, withPassword(c.HTTP, uploadToken), root)
				user.pull(t, c.HTTP, root) // into the tiers
				before := o.paths(t)
				for _, path := range before {
					if strings.HasSuffix(path, lost) {
						o.remove(t, path)
					}
				}
				builder.forget(t)
				builder.push(t, withPassword(c.HTTP, uploadToken), root)
				if after := o.paths(t); !slices.Equal(after, before) {
					t.Errorf("the bucket has %q, and had %q", after, before)
				}
			})
			for _, path := range o.paths(t) {
				o.remove(t, path)
			}
		}
	})
}

// TestPushAgainHealsDamage: so it does with a NAR that is damaged in the bucket, once
// somebody has asked for it.
func TestPushAgainHealsDamage(t *testing.T) {
	t.Parallel()
	forEachNix(t, func(t *testing.T, flavor nixFlavor) {
		o := r2Origin(t)
		c := startCache(t, o, "disk off")
		builder, user := newNixClient(t, flavor), newNixClient(t, flavor)
		root := builder.signedClosure(t)
		builder.push(t, withPassword(c.HTTP, uploadToken), root)
		for _, path := range o.paths(t) {
			if !strings.HasPrefix(path, "nar/") {
				continue
			}
			bad := o.read(t, path)
			bad[len(bad)/2] ^= 1
			o.put(t, path, bad)
			if a, err := c.try(t, "GET", "/"+path, nil); err == nil {
				t.Fatalf("%s: %d damaged bytes that look whole", a.Request, len(a.Body))
			}
		}
		builder.forget(t)
		builder.push(t, withPassword(c.HTTP, uploadToken), root)
		o.wantWhole(t, make(map[string]bool))
		user.pull(t, c.HTTP, root)
	})
}

// TestFilesGoneFromTheBucket: who may upload is told so, however they ask; who
// reads is served by the tiers, at no cost.
func TestFilesGoneFromTheBucket(t *testing.T) {
	t.Parallel()
	o := r2Origin(t)
	c := startCache(t, o, "token reader "+readToken+" read", "negative_ttl 1ns")
	var p nixtest.Package
	packages := 0
	warm := func() { // each time another one: what was confirmed counts for minutes
		t.Helper()
		packages++
		p = signedPackage(fmt.Sprint("gone-", packages), 100_000)
		o.lay(t, p)
		c.get(t, narPath(p)).wantStatus(t, http.StatusOK)
		c.getUntil(t, narPath(p), diskHit)
		c.getUntil(t, narinfoPath(p), memoryHit)
	}
	pusher := basic(uploadToken)

	warm()
	c.head(t, narPath(p), pusher).wantHeader(t, "Cache-Status", diskHit)
	o.bucket.take()
	for range 2 {
		c.get(t, narinfoPath(p), pusher).wantBody(t, p.Text())
	}
	if requests := o.bucket.take(); len(requests) != 2 {
		t.Errorf("a narinfo that was confirmed twice cost %v, want one request for it and one for its NAR", requests)
	}
	o.remove(t, narPath(p)[1:])
	for _, reader := range [][]requestOption{nil, {basic(readToken)}, {basic("wrong")}} {
		c.head(t, narPath(p), reader...).wantStatus(t, http.StatusOK)
		c.get(t, narPath(p), reader...).wantBody(t, p.File)
		c.get(t, narinfoPath(p), reader...).wantBody(t, p.Text())
	}
	if requests := o.bucket.take(); len(requests) > 0 {
		t.Errorf("readers cost %v", requests)
	}
	c.get(t, narPath(p), pusher).wantBody(t, p.File) // a pull
	c.head(t, narPath(p), pusher).wantStatus(t, http.StatusNotFound)
	c.head(t, narPath(p)).wantStatus(t, http.StatusNotFound)

	warm()
	o.remove(t, narPath(p)[1:])
	c.put(t, narinfoPath(p), p.Text()).wantRefusal(t, http.StatusConflict, "upload the NAR before")
	c.head(t, narPath(p)).wantStatus(t, http.StatusNotFound)
	c.put(t, narPath(p), p.File).wantStatus(t, http.StatusCreated)
	c.put(t, narinfoPath(p), p.Text()).wantStatus(t, http.StatusOK)
	c.get(t, narPath(p)).wantBody(t, p.File)

	warm()
	o.remove(t, narinfoPath(p)[1:])
	c.get(t, narinfoPath(p)).wantBody(t, p.Text())
	c.get(t, narinfoPath(p), pusher).wantStatus(t, http.StatusNotFound)
	c.get(t, narinfoPath(p)).wantStatus(t, http.StatusNotFound)

	warm()
	o.bucket.setFault(refuse) // an outage: nothing better is known
	c.get(t, narinfoPath(p), pusher).wantBody(t, p.Text())
	c.head(t, narPath(p), pusher).wantStatus(t, http.StatusOK)
}

// TestConfirmationsEnd: that a narinfo and its NAR were there a moment ago counts for
// nothing once a file was found gone, or while the bucket doesn't answer.
func TestConfirmationsEnd(t *testing.T) {
	t.Parallel()
	o := r2Origin(t)
	c := startCache(t, o, "token janitor "+deleteToken+" delete")
	pusher := basic(uploadToken)
	for name, lose := range map[string]func(p nixtest.Package){
		"found by a HEAD of the NAR": func(p nixtest.Package) {
			o.remove(t, narPath(p)[1:])
			c.head(t, narPath(p), pusher).wantStatus(t, http.StatusNotFound)
		},
		"found by a push": func(p nixtest.Package) {
			o.remove(t, narPath(p)[1:])
			c.put(t, narinfoPath(p), p.Text()).wantStatus(t, http.StatusConflict)
		},
		"deleted here": func(p nixtest.Package) {
			c.do(t, "DELETE", narPath(p)+"?force=true", nil, basic(deleteToken)).wantStatus(t, http.StatusOK)
		},
	} {
		p := signedPackage("confirmed-"+strings.ReplaceAll(name, " ", "-"), 1000)
		c.upload(t, p)
		c.get(t, narinfoPath(p), pusher).wantStatus(t, http.StatusOK)
		lose(p)
		a := c.get(t, narinfoPath(p), pusher)
		a.Request += " " + name
		a.wantStatus(t, http.StatusNotFound)
		c.put(t, narPath(p), p.File).wantStatus(t, http.StatusCreated)
	}

	p := signedPackage("not-confirmed", 1000)
	c.upload(t, p)
	c.getUntil(t, narinfoPath(p), memoryHit)
	o.bucket.setFault(refuse)
	c.get(t, narinfoPath(p), pusher).wantStatus(t, http.StatusOK)
	o.bucket.setFault(nil)
	o.remove(t, narPath(p)[1:])
	eventually(t, "the narinfo without its NAR absent", func() error {
		if a := c.get(t, narinfoPath(p), pusher); a.Status != http.StatusNotFound {
			return fmt.Errorf("status %d", a.Status)
		}
		return nil
	})
}

// TestWrongTokensOnReads: reads are not delayed for a wrong token, but nobody learns
// from them which one is right.
func TestWrongTokensOnReads(t *testing.T) {
	t.Parallel()
	o := r2Origin(t)
	c := startCache(t, o)
	p := signedPackage("guessed", 1000)
	c.upload(t, p)
	for i := range 20 {
		c.get(t, narinfoPath(p), basic(fmt.Sprint("guess-", i))).wantStatus(t, http.StatusOK)
	}
	o.bucket.take()
	c.get(t, narinfoPath(p), basic(uploadToken)).wantStatus(t, http.StatusOK)
	if requests := o.bucket.take(); len(requests) > 0 {
		t.Errorf("the right token shows, after 20 wrong ones, by %v", requests)
	}
}

// TestMissingNARs: a NAR that is not there though its narinfo is, is logged once and
// counted; others are not.
func TestMissingNARs(t *testing.T) {
	t.Parallel()
	o := r2Origin(t)
	c := startCache(t, o)
	p, unknown := signedPackage("missing-nar", 1000), signedPackage("nobody-promised", 1000)
	o.put(t, narinfoPath(p)[1:], p.Text())
	c.get(t, narinfoPath(p)).wantStatus(t, http.StatusOK)
	const asked = 3
	for range asked {
		c.get(t, narPath(p)).wantStatus(t, http.StatusNotFound)
		c.get(t, narPath(unknown)).wantStatus(t, http.StatusNotFound)
	}
	c.wantMetric(t, "nars_missing_total", `cache="nix-cache"`, asked)
	c.get(t, narinfoPath(p), basic(uploadToken)).wantStatus(t, http.StatusNotFound) // it is to be sent again
	c.wantMetric(t, "nars_missing_total", `cache="nix-cache"`, asked+1)
	const message = "a NAR is missing whose narinfo is there"
	entry := c.logged(t, message)
	if entry["path"] != narPath(p)[1:] || entry["narinfo"] != narinfoPath(p)[1:] {
		t.Errorf("logged as %v", entry)
	}
	if n := strings.Count(fmt.Sprint(c.log), message); n != 1 {
		t.Errorf("logged %d times", n)
	}
}
