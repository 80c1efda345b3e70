package integration

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/stevedores-org/nix-cache/caddymodule/nix/nixtest"
)

// testKey signs what clients push; testPublicKey is what they trust.
var (
	testKey       = nixtest.NewKey("test-1")
	testPublicKey = testKey.PublicKey().String()
	otherKey      = nixtest.NewKey("other-1")
)

// nixFlavor is an installed Nix.
type nixFlavor struct {
	name string
	root func(testing.TB) string // of the file system it is installed in
}

// nixFlavors are Debian stable's Nix of years ago and Debian sid's of today.
var nixFlavors = []nixFlavor{
	{"debian", func(testing.TB) string { return "/" }},
	{"sid", func(tb testing.TB) string { return requireEnv(tb, "NIX_SID_ROOT") }},
}

// forEachNix runs a test with every installed Nix.
func forEachNix(t *testing.T, test func(t *testing.T, flavor nixFlavor)) {
	for _, flavor := range nixFlavors {
		t.Run("nix="+flavor.name, func(t *testing.T) { test(t, flavor) })
	}
}

// nixClient is a Nix with a store, a configuration and a home of its own. It
// sees its directory as /mnt and the store in it as /nix.
type nixClient struct {
	flavor nixFlavor
	dir    string
}

// newNixClient returns a client with an empty store that trusts testPublicKey.
// Further lines go to its nix.conf.
func newNixClient(tb testing.TB, flavor nixFlavor, conf ...string) *nixClient {
	tb.Helper()
	n := &nixClient{flavor: flavor, dir: tempDir(tb)}
	for _, sub := range []string{"nix", "conf", "home", "cache"} {
		if err := os.Mkdir(n.dir+"/"+sub, 0o755); err != nil {
			tb.Fatal(err)
		}
	}
	// Store paths are read-only, which hinders even root's removal not at all.
	writeFile(tb, n.dir+"/secret-key", testKey.SecretText())
	writeFile(tb, n.dir+"/other-key", otherKey.SecretText())
	writeFile(tb, n.dir+"/conf/nix.conf", strings.Join(append([]string{
		"experimental-features = nix-command",
		"build-users-group =",
		"sandbox = false",
		"substituters =",
		"trusted-public-keys = " + testPublicKey,
	}, conf...), "\n")+"\n")
	logVersion(tb, n)
	return n
}

var versions sync.Map // of *sync.Once by flavor's name

// logVersion writes once which Nix a flavor is.
func logVersion(tb testing.TB, n *nixClient) {
	once, _ := versions.LoadOrStore(n.flavor.name, new(sync.Once))
	once.(*sync.Once).Do(func() { tb.Log(n.flavor.name, n.run(tb, "nix", "--version")) })
}

// trust makes the client accept a Caddy's certificate.
func (n *nixClient) trust(tb testing.TB, c *caddy) {
	tb.Helper()
	writeFile(tb, n.dir+"/ca.crt", readFile(tb, c.rootCertificate()))
}

// netrc gives the client a password for localhost.
func (n *nixClient) netrc(tb testing.TB, password string) {
	tb.Helper()
	writeFile(tb, n.dir+"/conf/netrc", "machine localhost login ci password "+password+"\n")
}

// forget drops what the client remembers of caches: for up to 30 days it asks
// no more for what it has seen there.
func (n *nixClient) forget(tb testing.TB) {
	tb.Helper()
	if err := os.RemoveAll(n.dir + "/cache/nix"); err != nil {
		tb.Fatal(err)
	}
}

// enterRoot runs a command in a file system tree with private mounts.
const enterRoot = `set -e
root=$1 dir=$2; shift 2
mkdir -p "$root/nix"
mount --bind "$dir" "$root/mnt"
mount --bind "$dir/nix" "$root/nix"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
exec chroot "$root" "$@"`

// try runs a command and returns what it wrote.
func (n *nixClient) try(tb testing.TB, command string, args ...string) (string, error) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), patience)
	defer cancel()
	enter := []string{"--mount", "--", "/bin/sh", "-c", enterRoot, "enter-root", n.flavor.root(tb), n.dir, command}
	cmd := exec.CommandContext(ctx, "unshare", append(enter, args...)...)
	cmd.Env = []string{
		"PATH=/usr/sbin:/usr/bin:/sbin:/bin",
		"LC_ALL=C.UTF-8",
		"NIX_REMOTE=local",
		"NIX_CONF_DIR=/mnt/conf",
		"NIX_SSL_CERT_FILE=/mnt/ca.crt",
		"HOME=/mnt/home",
		"XDG_CACHE_HOME=/mnt/cache",
	}
	out, err := cmd.CombinedOutput()
	text := strings.TrimSpace(string(out))
	if strings.HasPrefix(text, "unshare:") || strings.HasPrefix(text, "mount:") {
		tb.Fatalf("this machine gives root no mount namespaces, and the tests need them: %s", text)
	}
	return text, err
}

func (n *nixClient) run(tb testing.TB, command string, args ...string) string {
	tb.Helper()
	out, err := n.try(tb, command, args...)
	if err != nil {
		tb.Fatalf("%s %s: %v\n%s", command, strings.Join(args, " "), err, out)
	}
	return out
}

// closureNix builds with nothing but /bin/sh: top refers to lib and doc, and
// lib to src and itself. src is addressed by its content.
const closureNix = `{ nonce }:
let
  mk = name: script: derivation {
    inherit name nonce;
    system = builtins.currentSystem;
    builder = "/bin/sh";
    args = [ "-c" script ];
    PATH = "/usr/bin:/bin";
  };
  src = builtins.toFile "src.txt" "source ${nonce}\n";
  doc = mk "doc" "mkdir -p $out/share; echo doc $nonce > $out/share/doc.txt; ln -s doc.txt $out/share/link";
  lib = mk "lib-1.0" "mkdir -p $out/lib; seq 1 50000 > $out/lib/numbers; echo ${src} $out > $out/lib/references";
in mk "top-2.0" "mkdir -p $out/bin; echo '#!/bin/sh' > $out/bin/top; chmod +x $out/bin/top; echo ${lib} ${doc} > $out/references"
`

// closureSize is the number of store paths in what buildClosure returns.
const closureSize = 4

// buildClosure builds a closure and returns its root; nothing is signed.
// Closures of different tests have nothing in common.
func (n *nixClient) buildClosure(tb testing.TB) string {
	tb.Helper()
	writeFile(tb, n.dir+"/closure.nix", closureNix)
	nonce := fmt.Sprintf("%x", sha256.Sum256([]byte(tb.Name())))[:16]
	out := n.run(tb, "nix-build", "--no-out-link", "--argstr", "nonce", nonce, "/mnt/closure.nix")
	lines := strings.Split(out, "\n")
	return lines[len(lines)-1]
}

// signedClosure is buildClosure with testKey's signatures.
func (n *nixClient) signedClosure(tb testing.TB) string {
	tb.Helper()
	root := n.buildClosure(tb)
	n.sign(tb, "/mnt/secret-key", root)
	return root
}

func (n *nixClient) sign(tb testing.TB, keyFile, root string) {
	tb.Helper()
	n.run(tb, "nix", "store", "sign", "--key-file", keyFile, "--recursive", root)
}

// tryPush and tryPull copy a closure to and from a cache.
func (n *nixClient) tryPush(tb testing.TB, url, root string) (string, error) {
	tb.Helper()
	return n.try(tb, "nix", "copy", "--to", url, root)
}

func (n *nixClient) tryPull(tb testing.TB, url, root string) (string, error) {
	tb.Helper()
	return n.try(tb, "nix", "copy", "--from", url, root)
}

func (n *nixClient) push(tb testing.TB, url, root string) {
	tb.Helper()
	if out, err := n.tryPush(tb, url, root); err != nil {
		tb.Fatalf("push to %s: %v\n%s", url, err, out)
	}
}

func (n *nixClient) pull(tb testing.TB, url, root string) {
	tb.Helper()
	if out, err := n.tryPull(tb, url, root); err != nil {
		tb.Fatalf("pull from %s: %v\n%s", url, err, out)
	}
}

// substitute brings a closure in as a build would.
func (n *nixClient) substitute(tb testing.TB, url, root string) {
	tb.Helper()
	n.run(tb, "nix-store", "--option", "substituters", url, "--realise", root)
}

// contents describes a closure: each path, its references and the hash of
// all its bytes as they are on disk.
func (n *nixClient) contents(tb testing.TB, root string) string {
	tb.Helper()
	const describe = `set -e
for p in $(nix-store --query --requisites "$1" | sort); do
	echo "$p" $(nix-store --dump "$p" | sha256sum) $(nix-store --query --references "$p" | sort)
done`
	return n.run(tb, "/bin/sh", "-c", describe, "describe", root)
}

// assertSameClosure compares the stores of two clients byte by byte.
func assertSameClosure(tb testing.TB, want, got *nixClient, root string) {
	tb.Helper()
	w, g := want.contents(tb, root), got.contents(tb, root)
	if strings.Count(w, "\n")+1 != closureSize {
		tb.Fatalf("closure has not %d paths:\n%s", closureSize, w)
	}
	if w != g {
		tb.Errorf("stores differ\npushed:\n%s\npulled:\n%s", w, g)
	}
}
