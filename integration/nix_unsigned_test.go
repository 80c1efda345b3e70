package integration

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"path"
	"reflect"
	"regexp"
	"strings"
	"testing"
)

// debuggableNix builds a path with a file of debug info in it, and one whose
// output is addressed by its content.
const debuggableNix = `{ nonce }:
let
  mk = extra: derivation ({
    inherit nonce;
    system = builtins.currentSystem;
    builder = "/bin/sh";
    PATH = "/usr/bin:/bin";
  } // extra);
in {
  debuggable = mk {
    name = "debuggable-1.0";
    args = [ "-c" "ids=$out/lib/debug/.build-id/ab; mkdir -p $ids; echo $nonce > $ids/$(echo $nonce | sha256sum | cut -c1-38).debug; ln -s lib $out/link; echo building $nonce" ];
  };
  addressed = mk {
    name = "addressed-1.0";
    args = [ "-c" "mkdir -p $out; echo $nonce > $out/file" ];
    __contentAddressed = true;
    outputHashMode = "recursive";
    outputHashAlgo = "sha256";
  };
}
`

// attribute runs one of Nix's commands on what debuggableNix has under a name,
// and returns the last line of what it wrote: a store path. Those of different
// tests have nothing in common.
func (n *nixClient) attribute(t *testing.T, name, command string, args ...string) string {
	t.Helper()
	writeFile(t, n.dir+"/debuggable.nix", debuggableNix)
	return lastLine(n.run(t, command, append(args, "--argstr", "nonce", nonce(t), "-A", name, "/mnt/debuggable.nix")...))
}

func nonce(t *testing.T) string {
	return regexp.MustCompile("[^a-zA-Z0-9]+").ReplaceAllString(t.Name(), "-")
}

// buildAttribute builds what attribute tells of, and signs it.
func (n *nixClient) buildAttribute(t *testing.T, name string) string {
	t.Helper()
	root := n.attribute(t, name, "nix-build", "--no-out-link")
	n.sign(t, "/mnt/secret-key", root)
	return root
}

func lastLine(text string) string { return text[strings.LastIndex(text, "\n")+1:] }

// storeHash returns the hash in a store path.
func storeHash(storePath string) string { return path.Base(storePath)[:32] }

// pushOptions are ways to send the unsigned files; the older Nix knows none but
// the plain one.
func pushOptions(flavor nixFlavor, setting string) []string {
	options := []string{""}
	if flavor.name == "sid" {
		for _, method := range []string{"br", "zstd", "gzip", "xz", "bzip2"} {
			options = append(options, "&"+setting+"="+method)
		}
	}
	return options
}

// TestNixListings: a listing says of a path what Nix itself says of it, however
// it was sent, and of debug info where it lies.
func TestNixListings(t *testing.T) {
	t.Parallel()
	c := startCache(t, dirOrigin(t))
	forEachNix(t, func(t *testing.T, flavor nixFlavor) {
		for _, option := range pushOptions(flavor, "ls-compression") {
			t.Run("options="+option, func(t *testing.T) {
				n := newNixClient(t, flavor)
				root := n.buildAttribute(t, "debuggable")
				n.push(t, withPassword(c.HTTP, uploadToken)+"?write-nar-listing=1&index-debug-info=1"+option, root)
				testListing(t, c, n, root)
				testDebugInfo(t, c, root)
			})
		}
	})
}

func testListing(t *testing.T, c *cache, n *nixClient, root string) {
	a := c.get(t, "/"+storeHash(root)+".ls")
	a.wantStatus(t, http.StatusOK)
	a.wantHeader(t, "Content-Encoding", "")
	var listing struct {
		Version int
		Root    any
	}
	if err := json.Unmarshal(a.Body, &listing); err != nil || listing.Version != 1 {
		t.Fatalf("%s: %s (%v)", a.Request, a.Body, err)
	}
	var want any
	out := n.run(t, "nix", "store", "ls", "--json", "--recursive", "--store", c.HTTP, root)
	if err := json.Unmarshal([]byte(out), &want); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(listing.Root, want) {
		t.Errorf("the listing is %s\nwant %s", a.Body, out)
	}
}

func testDebugInfo(t *testing.T, c *cache, root string) {
	rest := fmt.Sprintf("%x", sha256.Sum256([]byte(nonce(t)+"\n")))[:38]
	a := c.get(t, "/debuginfo/ab"+rest+".debug")
	a.wantStatus(t, http.StatusOK)
	a.wantHeader(t, "Content-Encoding", "")
	var info struct{ Archive, Member string }
	if err := json.Unmarshal(a.Body, &info); err != nil {
		t.Fatalf("%s: %s (%v)", a.Request, a.Body, err)
	}
	if want := "lib/debug/.build-id/ab/" + rest + ".debug"; info.Member != want {
		t.Errorf("debug info is in %s, want %s", info.Member, want)
	}
	narinfo := c.get(t, "/"+storeHash(root)+".narinfo")
	if url := strings.TrimPrefix(info.Archive, "../"); !strings.Contains(string(narinfo.Body), "\nURL: "+url+"\n") {
		t.Errorf("debug info is in %s, and the narinfo says %s", info.Archive, narinfo.Body)
	}
}

// TestNixLogs: a build log that one client sends another one can read.
func TestNixLogs(t *testing.T) {
	t.Parallel()
	c := startCache(t, dirOrigin(t))
	forEachNix(t, func(t *testing.T, flavor nixFlavor) {
		for _, option := range pushOptions(flavor, "log-compression") {
			t.Run("options="+option, func(t *testing.T) {
				n := newNixClient(t, flavor)
				root := n.buildAttribute(t, "debuggable")
				drv := n.run(t, "nix-store", "--query", "--deriver", root)
				want := lastLine(n.run(t, "nix", "log", drv))
				url := withPassword(c.HTTP, uploadToken) + "?x=1" + option
				n.run(t, "nix", "store", "copy-log", "--to", url, drv)
				a := c.get(t, "/log/"+path.Base(drv))
				a.wantHeader(t, "Content-Encoding", "")
				a.wantBody(t, []byte(want+"\n"))
				reader := newNixClient(t, flavor)
				reader.attribute(t, "debuggable", "nix-instantiate")
				got := lastLine(reader.run(t, "nix", "log", "--option", "substituters", c.HTTP, drv))
				if got != want || !strings.HasPrefix(want, "building") {
					t.Errorf("the log reads %q, want %q", got, want)
				}
			})
		}
	})
}

// TestNixRealisations: a derivation whose output is addressed by its content is
// not built again where the cache has its realisation.
func TestNixRealisations(t *testing.T) {
	t.Parallel()
	c := startCache(t, dirOrigin(t))
	const features = "experimental-features = nix-command ca-derivations"
	forEachNix(t, func(t *testing.T, flavor nixFlavor) {
		builder := newNixClient(t, flavor, features)
		builder.buildAttribute(t, "addressed")
		selected := []string{"--file", "/mnt/debuggable.nix", "--argstr", "nonce", nonce(t), "addressed"}
		builder.run(t, "nix", append([]string{"store", "sign", "--key-file", "/mnt/secret-key"}, selected...)...)
		builder.run(t, "nix", append([]string{"copy", "--to", withPassword(c.HTTP, uploadToken)}, selected...)...)
		put := c.waitAccess(t, "PUT of a realisation", func(e accessEntry) bool {
			return e.Request.Method == "PUT" && strings.HasPrefix(e.Request.URI, "/realisations/") && e.Status == http.StatusCreated
		})
		for _, uri := range []string{put.Request.URI, strings.ReplaceAll(put.Request.URI, "%21", "!"), strings.ReplaceAll(put.Request.URI, "!", "%21")} {
			a := c.get(t, uri)
			a.wantStatus(t, http.StatusOK)
			if !strings.Contains(string(a.Body), "-addressed-1.0") {
				t.Errorf("%s: %s", a.Request, a.Body)
			}
		}
		user := newNixClient(t, flavor, features)
		writeFile(t, user.dir+"/debuggable.nix", debuggableNix)
		out := user.run(t, "nix-build", "--no-out-link", "--option", "substituters", c.HTTP, "--argstr", "nonce", nonce(t), "-A", "addressed", "/mnt/debuggable.nix")
		if !strings.Contains(out, "copying path") || strings.Contains(out, "building '") {
			t.Errorf("it was not substituted:\n%s", out)
		}
	})
}
