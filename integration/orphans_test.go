package integration

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

// age makes the multipart uploads of a key look as if begun some time ago.
func (b *r2Bucket) age(tb testing.TB, key string, by time.Duration) {
	tb.Helper()
	then := time.Now().Add(-by)
	out, err := b.direct.ListMultipartUploads(tb.Context(), &s3.ListMultipartUploadsInput{Bucket: aws.String(bucketName), Prefix: &key})
	if err != nil {
		tb.Fatal(err)
	}
	for _, u := range out.Uploads {
		dirs, err := filepath.Glob(filepath.Join(b.dir, bucketName, ".sgwtmp/multipart/*", *u.UploadId))
		if err != nil || len(dirs) != 1 {
			tb.Fatalf("the server's directory of upload %s: %q, %v", *u.UploadId, dirs, err)
		}
		if err := os.Chtimes(dirs[0], then, then); err != nil {
			tb.Fatal(err)
		}
	}
}

// TestOrphans: what uploads left that ended with a crash is removed at a later
// start, if it is old, and nothing of anybody else's.
func TestOrphans(t *testing.T) {
	t.Parallel()
	o := smallParts(t)
	o.caddyfile = strings.Replace(o.caddyfile, "part_size", "prefix team\n\t\tpart_size", 1)
	c := startCache(t, o)
	old, young := signedPackage("orphan-old", 12_000_000), signedPackage("orphan-young", 12_000_000)
	done := make(chan struct{}, 2)
	goOn := make(chan struct{})
	for _, p := range []string{narPath(old), narPath(young)} {
		body := old.File
		if p == narPath(young) {
			body = young.File
		}
		go func() {
			c.try(t, "PUT", p, body, basic(uploadToken), pauseAt(11_000_000, goOn))
			done <- struct{}{}
		}()
	}
	eventually(t, "two uploads under way", func() error {
		if n := len(o.bucket.uploads(t)); n != 2 {
			return fmt.Errorf("%d uploads", n)
		}
		return nil
	})
	c.kill(t)
	close(goOn)
	<-done
	<-done
	foreign := []string{"team/backup.tar", "other" + narPath(old)}
	for _, key := range foreign {
		if _, err := o.bucket.direct.CreateMultipartUpload(t.Context(), &s3.CreateMultipartUploadInput{
			Bucket: aws.String(bucketName), Key: &key,
		}); err != nil {
			t.Fatal(err)
		}
		o.bucket.age(t, key, 48*time.Hour)
	}
	o.bucket.age(t, "team"+narPath(old), 25*time.Hour)
	o.bucket.age(t, "team"+narPath(young), 23*time.Hour)

	c.run(t)
	if line := c.logged(t, "uploads that had been cut off were removed"); line["count"] != 1.0 {
		t.Errorf("logged %v", line)
	}
	want := map[string]bool{"team" + narPath(young): true, foreign[0]: true, foreign[1]: true}
	for _, key := range o.bucket.uploads(t) {
		if !want[key] {
			t.Errorf("an upload of %s is left", key)
		}
		delete(want, key)
	}
	for key := range want {
		t.Errorf("the upload of %s is gone", key)
	}
	c.upload(t, old)
	c.upload(t, young)
}

// TestOrphansOfADeadBucket: a start doesn't depend on it.
func TestOrphansOfADeadBucket(t *testing.T) {
	t.Parallel()
	o := r2Origin(t)
	g := newGate(t, o.bucket.endpoint)
	o.caddyfile = strings.Replace(o.caddyfile, o.bucket.endpoint, "http://"+g.address, 1)
	c := startCache(t, o)
	c.logged(t, "uploads that were cut off are not removed")
	g.open(t)
	eventually(t, "an origin that is well again", func() error {
		if a := c.get(t, "/health/ready"); a.Status != 200 {
			return errors.New(a.Request)
		}
		return nil
	})
	c.upload(t, signedPackage("orphans-dead", 1000))
}
