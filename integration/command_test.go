package integration

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/stevedores-org/nix-cache/caddymodule/nix/nixtest"
)

// commandResult is what a command came to.
type commandResult struct {
	args           []string
	status         int
	stdout, stderr string
}

// prepareCommand makes `caddy nix-cache …`, with the environment of a running
// Caddy.
func (c *caddy) prepareCommand(tb testing.TB, args ...string) *exec.Cmd {
	tb.Helper()
	cmd := exec.CommandContext(tb.Context(), requireEnv(tb, "CADDY_RACE"), append([]string{"nix-cache"}, args...)...)
	cmd.Dir = c.dir
	cmd.Env = c.setup.Env
	cmd.Stdout, cmd.Stderr = new(bytes.Buffer), new(bytes.Buffer)
	return cmd
}

func finishCommand(tb testing.TB, cmd *exec.Cmd, err error) commandResult {
	tb.Helper()
	r := commandResult{args: cmd.Args[1:], stdout: cmd.Stdout.(*bytes.Buffer).String(), stderr: cmd.Stderr.(*bytes.Buffer).String()}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		r.status = exit.ExitCode()
	} else if err != nil {
		tb.Fatalf("%q: %v", r.args, err)
	}
	if strings.Contains(r.stderr, "DATA RACE") || strings.Contains(r.stderr, "panic:") {
		tb.Errorf("%q: %s", r.args, r.stderr)
	}
	return r
}

// command runs `caddy nix-cache …` beside a running Caddy, with its Caddyfile.
func (c *caddy) command(tb testing.TB, args ...string) commandResult {
	tb.Helper()
	cmd := c.prepareCommand(tb, args...)
	return finishCommand(tb, cmd, cmd.Run())
}

// want checks the exit status, and that each text is in the output.
func (r commandResult) want(tb testing.TB, status int, texts ...string) {
	tb.Helper()
	if r.status != status {
		tb.Errorf("%q: status %d, want %d", r.args, r.status, status)
	}
	for _, text := range texts {
		if !strings.Contains(r.stdout+r.stderr, text) {
			tb.Errorf("%q: nothing of %q", r.args, text)
		}
	}
	if tb.Failed() {
		tb.Logf("%q:\n%s%s", r.args, r.stdout, r.stderr)
	}
}

// wantLines checks the exit status, and that standard output has these lines in
// any order, each a JSON object; "…" stands for anything.
func (r commandResult) wantLines(tb testing.TB, status int, lines ...string) {
	tb.Helper()
	r.want(tb, status)
	got := strings.Split(strings.TrimSuffix(r.stdout, "\n"), "\n")
	for _, want := range lines {
		before, after, _ := strings.Cut(want, "…")
		if !slices.ContainsFunc(got, func(line string) bool {
			return strings.HasPrefix(line, before) && strings.HasSuffix(line, after) && json.Valid([]byte(line))
		}) {
			tb.Errorf("%q: no line is %s:\n%s", r.args, want, r.stdout)
		}
	}
	if len(got) < len(lines) {
		tb.Errorf("%q: %d lines, want %d at least", r.args, len(got), len(lines))
	}
}

// keygen makes a key pair in a directory, and returns the file of the secret key
// and the public one.
func keygen(tb testing.TB, dir, name string) (file, public string) {
	tb.Helper()
	c := &caddy{dir: dir}
	r := c.command(tb, "keygen", name)
	r.want(tb, 0, name+".secret")
	return dir + "/" + name + ".secret", strings.TrimSpace(r.stdout)
}

func TestKeygen(t *testing.T) {
	dir := tempDir(t)
	file, public := keygen(t, dir, "cache.example.org-1")
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("key file: %v, %v", info, err)
	}
	before := readFile(t, file)
	c := &caddy{dir: dir}
	c.command(t, "keygen", "cache.example.org-1").want(t, 2, "is there already")
	c.command(t, "keygen", "other", "--output", file).want(t, 2, "is there already")
	if readFile(t, file) != before {
		t.Error("the key was overwritten")
	}
	c.command(t, "keygen", "other", "--output", dir+"/elsewhere").want(t, 0, "other:")
	c.command(t, "keygen").want(t, 2, "name")
	c.command(t, "keygen", "a b").want(t, 2, "space")
	c.command(t, "keygen", "--nonsense").want(t, 2, "--nonsense")
	c.command(t, "nonsense").want(t, 2, "keygen, sign or verify")
	c.command(t).want(t, 2, "Available Commands", "keygen", "verify")
	forEachNix(t, func(t *testing.T, flavor nixFlavor) {
		n := newNixClient(t, flavor)
		writeFile(t, n.dir+"/server-key", before)
		if got := n.run(t, "sh", "-c", "nix key convert-secret-to-public < /mnt/server-key"); got != public {
			t.Errorf("Nix says the public key is %q, we say %q", got, public)
		}
	})
}

// TestSignedByTheServer: a client that knows the server's key alone can use what
// a builder signed with another.
func TestSignedByTheServer(t *testing.T) {
	t.Parallel()
	forEachOrigin(t, func(t *testing.T, o *testOrigin) {
		file, public := keygen(t, tempDir(t), "server-1")
		c := startCache(t, o, "sign_with "+file)
		forEachNix(t, func(t *testing.T, flavor nixFlavor) {
			builder := newNixClient(t, flavor)
			root := builder.signedClosure(t)
			builder.push(t, withPassword(c.HTTP, uploadToken), root)
			user := newNixClient(t, flavor, "trusted-public-keys = "+public)
			user.pull(t, c.HTTP, root)
			assertSameClosure(t, builder, user, root)
			stranger := newNixClient(t, flavor, "trusted-public-keys = "+otherKey.PublicKey().String())
			out, err := stranger.tryPull(t, c.HTTP, root)
			wantFailure(t, out, err, "signature")
		})
		p := signedPackage("signed-by-the-server", 1000)
		c.upload(t, p)
		c.put(t, narinfoPath(p), p.Text()).wantStatus(t, http.StatusOK)
		if text := c.get(t, narinfoPath(p)).Body; bytes.Count(text, []byte("\nSig: server-1:")) != 1 {
			t.Errorf("narinfo after two uploads:\n%s", text)
		}
	})
}

// TestKeyRotation: what is stored gains the signature of a new key beside a
// running server, which shows it at once.
func TestKeyRotation(t *testing.T) {
	t.Parallel()
	forEachOrigin(t, func(t *testing.T, o *testOrigin) {
		c := startCache(t, o)
		file, public := keygen(t, c.dir, "server-2")
		p := signedPackage("rotation", 1000)
		c.upload(t, p)
		config := []string{"--config", c.dir + "/Caddyfile"}
		sign := slices.Concat([]string{"sign", "--key", file}, config)
		forEachNix(t, func(t *testing.T, flavor nixFlavor) {
			builder := newNixClient(t, flavor)
			root := builder.signedClosure(t)
			builder.push(t, withPassword(c.HTTP, uploadToken), root)
			c.get(t, narinfoPath(p)).wantStatus(t, http.StatusOK) // so that it is in memory

			r := c.command(t, sign...)
			r.want(t, 0, "0 not signed")
			if strings.Contains(r.stderr, "not told") {
				t.Errorf("the server was not told: %s", r.stderr)
			}
			if text := c.get(t, narinfoPath(p)).Body; bytes.Count(text, []byte("\nSig: server-2:")) != 1 {
				t.Errorf("the server has\n%s", text)
			}
			user := newNixClient(t, flavor, "trusted-public-keys = "+public)
			user.pull(t, c.HTTP, root)
			assertSameClosure(t, builder, user, root)
		})
		c.command(t, sign...).want(t, 0, "0 signed, 9 signed before, 0 not signed")
		c.command(t, append(sign, "--admin", "localhost:1")...).want(t, 1, "localhost:1", "was not told")
		c.command(t, append(sign, "--admin", "off")...).want(t, 0)
		c.command(t, append([]string{"sign"}, config...)...).want(t, 2, "no key to sign with")

		unsigned := nixtest.NewPackage("unsigned", 10)
		o.lay(t, unsigned)
		c.command(t, sign...).want(t, 1, narinfoPath(unsigned)[1:]+": verify narinfo: no signature by a trusted key", "1 not signed")
		c.command(t, append(sign, "--json")...).wantLines(t, 1,
			`{"type":"refused","path":"`+narinfoPath(unsigned)[1:]+`","text":"verify narinfo: no signature by a trusted key…"}`,
			`{"type":"summary","signed":0,"signed_before":…,"not_signed":1,"complete":true}`)
	})
}

// TestCommandsTellWhatTheOriginRefuses: in a line, with the bucket and what to do.
func TestCommandsTellWhatTheOriginRefuses(t *testing.T) {
	o := r2Origin(t)
	o.caddyfile = strings.Replace(o.caddyfile, "bucket "+bucketName, "bucket other", 1)
	c := startCache(t, o)
	r := c.command(t, "verify", "--config", c.dir+"/Caddyfile")
	r.want(t, 2, "caddy nix-cache verify: list: bucket other at "+o.bucket.endpoint+": there is no such bucket; create it, or correct bucket, account_id or jurisdiction\n",
		"0 narinfos verified, 0 B of NARs read: 0 with problems, 0 notes, and not all was verified\n")
}

// TestSignIsInterrupted: it says how far it came, and goes on from there.
func TestSignIsInterrupted(t *testing.T) {
	o := r2Origin(t)
	c := startCache(t, o)
	file, _ := keygen(t, c.dir, "server-3")
	var paths []string
	for _, name := range strings.Split("abcdefghijklmnopqrst", "") {
		p := signedPackage("interrupted-"+name, 10)
		o.lay(t, p)
		paths = append(paths, narinfoPath(p)[1:])
	}
	slices.Sort(paths)
	sign := []string{"sign", "--key", file, "--config", c.dir + "/Caddyfile", "--state", c.dir + "/state", "--parallel", "1"}
	stalled := make(chan struct{})
	var reads atomic.Int32
	o.bucket.setFault(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if r.Method == "GET" && strings.HasSuffix(r.URL.Path, paths[10]) && reads.Add(1) == 1 {
			close(stalled)
			<-r.Context().Done()
			return
		}
		next.ServeHTTP(w, r)
	})
	cmd := c.prepareCommand(t, sign...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	<-stalled
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	finishCommand(t, cmd, cmd.Wait()).want(t, 2, "interrupted", "goes on after "+paths[9], "10 signed")

	o.bucket.setFault(nil)
	o.bucket.take()
	c.command(t, sign...).want(t, 0, "going on after "+paths[9], "20 signed, 0 signed before, 0 not signed")
	for _, r := range o.bucket.take() {
		if r.Method == "GET" && slices.Contains(paths[:10], r.Path) {
			t.Errorf("%s is read again", r.Path)
		}
	}
	if _, err := os.Stat(c.dir + "/state"); err == nil {
		t.Error("the state is left over")
	}
}

func TestVerifyCommand(t *testing.T) {
	t.Parallel()
	forEachOrigin(t, func(t *testing.T, o *testOrigin) {
		c := startCache(t, o)
		whole, damaged := signedPackage("whole", 100_000), signedPackage("damaged", 100_000)
		c.upload(t, whole)
		c.upload(t, damaged)
		verify := func(args ...string) commandResult {
			return c.command(t, slices.Concat([]string{"verify", "--config", c.dir + "/Caddyfile"}, args)...)
		}
		verify().want(t, 0, "2 narinfos verified", "0 with problems, 0 notes")

		file := bytes.Clone(damaged.File)
		file[50_000] ^= 1
		o.put(t, narPath(damaged)[1:], file)
		lost := signedPackage("lost", 10)
		o.put(t, narPath(lost)[1:], lost.File)
		r := verify()
		r.want(t, 1, "1 with problems", "note: "+narPath(lost)[1:]+": no narinfo refers to it")
		if line := narinfoPath(damaged)[1:] + ": FileHash is"; !strings.HasPrefix(r.stdout, line) && !strings.Contains(r.stdout, "\n"+line) {
			t.Errorf("no line begins with %q:\n%s", line, r.stdout)
		}
		verify("--json").wantLines(t, 1,
			`{"type":"problem","path":"`+narinfoPath(damaged)[1:]+`","text":"FileHash is …`,
			`{"type":"note","path":"`+narPath(lost)[1:]+`","text":"no narinfo refers to it: …"}`,
			`{"type":"summary","narinfos":2,"with_problems":1,"notes":1,"nar_bytes":…,"complete":true}`,
		)
		verify("--quick").want(t, 0, "2 narinfos verified, 0 B")
		for _, arg := range []string{
			damaged.NARInfo.StorePath.String(), damaged.NARInfo.StorePath.String() + "/bin/x",
			damaged.NARInfo.StorePath.Base(), damaged.NARInfo.StorePath.Hash(), narinfoPath(damaged)[1:],
		} {
			verify(arg).want(t, 1, "1 narinfo verified", "FileHash is")
		}
		verify(whole.NARInfo.StorePath.String()).want(t, 0, "1 narinfo verified")
		verify(lost.NARInfo.StorePath.String()).want(t, 1, "there is no such narinfo")
		verify("nonsense").want(t, 2, "nonsense")
	})
}

// TestSeveralCaches: the commands ask which one is meant.
func TestSeveralCaches(t *testing.T) {
	first, second := dirOrigin(t), dirOrigin(t)
	p := signedPackage("several", 10)
	first.lay(t, p)
	c := startCaddy(t, site("http://localhost", cacheDirective(first, "name first"))+
		site("https://localhost", cacheDirective(first, "name first"))+
		site("https://localhost:0", cacheDirective(second, "name second")))
	verify := []string{"verify", "--config", c.dir + "/Caddyfile"}
	c.command(t, verify...).want(t, 2, "--cache", "first, second")
	c.command(t, append(verify, "--cache", "first")...).want(t, 0, "1 narinfo verified")
	c.command(t, append(verify, "--cache", "second")...).want(t, 0, "0 narinfos verified", "there are no narinfos in ")
	c.command(t, append(verify, "--cache", "third")...).want(t, 2, "third", "first, second")
	c.command(t, "verify", "--config", "/nonexistent").want(t, 2, "/nonexistent")
}

// TestForgetRoute is the admin endpoint as scripts may use it.
func TestForgetRoute(t *testing.T) {
	o := r2Origin(t)
	c := startCache(t, o)
	p := signedPackage("forget", 10)
	o.lay(t, p)
	c.getUntil(t, narinfoPath(p), memoryHit)
	again := signedPackage("forget", 10, nixtest.SignedBy(otherKey))
	o.put(t, narinfoPath(p)[1:], again.Text())
	c.get(t, narinfoPath(p)).wantBody(t, p.Text())
	got := c.admin(t, "POST", "/nix-cache/forget", "application/json", `{"cache": "nix-cache", "paths": ["`+narinfoPath(p)[1:]+`"]}`)
	if strings.TrimSpace(got) != `{"forgotten":1}` {
		t.Errorf("answer %q", got)
	}
	c.get(t, narinfoPath(p)).wantBody(t, again.Text())
}
