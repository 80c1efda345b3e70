package integration

import (
	"fmt"
	"strings"
	"testing"
)

// TestStartIsTold: what the config came to, and whether the origin answers.
func TestStartIsTold(t *testing.T) {
	t.Parallel()
	o := r2Origin(t)
	tier := tempDir(t)
	c := startCache(t, o, "name office", "memory 64MiB", "private", "disk "+tier+" 1GiB 1MiB")
	line := c.logged(t, "serving a Nix binary cache")
	for field, want := range map[string]any{
		"cache": "office", "memory": "64 MiB", "disk": tier + ", 1.0 GiB, 1.0 MiB left free",
		"origin":  "r2:" + strings.TrimPrefix(o.bucket.endpoint, "http://") + "/" + bucketName + "/",
		"private": true, "uploads": true, "deletions": false, "trusted_public_keys": 1.0,
	} {
		if line[field] != want {
			t.Errorf("%s is %v, want %v", field, line[field], want)
		}
	}
	c.logged(t, "ready: the origin answers")
	if n := o.bucket.takeProbes(); n != 1 {
		t.Errorf("%d requests to the bucket for it, want 1", n)
	}
}

// TestStartWithWrongCredentials: nobody has to ask for a file to notice.
func TestStartWithWrongCredentials(t *testing.T) {
	t.Parallel()
	o := r2Origin(t)
	o.caddyfile = strings.Replace(o.caddyfile, "secret_access_key "+o.bucket.secretKey, "secret_access_key wrong", 1)
	c := startCache(t, o)
	line := c.logged(t, "not ready")
	text := fmt.Sprint(line["error"])
	if !strings.Contains(text, "it refused the credentials (403 SignatureDoesNotMatch); check access_key_id") || line["level"] != "error" {
		t.Errorf("the log says %v", line)
	}
}
