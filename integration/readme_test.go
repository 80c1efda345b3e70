package integration

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// A snippet is a fenced block of README.md in a language that runs. The comment
// on the line above it, <!-- test: fixture -->, says how; see fixtures.
type snippet struct {
	line     int // of README.md
	language string
	fixture  string
	text     string
}

// fixtures run a snippet, in the order the README has them.
var fixtures = map[string]func(*readme, *testing.T, snippet){
	"caddyfile":  (*readme).caddyfile,  // a whole Caddyfile
	"directives": (*readme).directives, // what stands inside a site
	"tokens":     (*readme).tokenFile,  // the token_file of Caddyfiles below it
	"netrc":      (*readme).netrc,      // a client's, with a password of the tokens above
	"nix.conf":   (*readme).nixConf,    // lines of a nix.conf
	"syntax":     (*readme).syntax,     // commands that need what a test has not: parsed only
	"this":       (*readme).this,       // the test command, which runs just now
	"run":        (*readme).run,        // the command that serves Caddyfile.example; serves the snippets below it
	"caddy":      (*readme).caddy,      // commands of caddy, beside the one that serves
	"xcaddy":     (*readme).xcaddy,     // leaves ./caddy in the checkout
	"keys":       (*readme).client,     // leaves ./cache-key.pub; "run" after it has it as NIX_PUBLIC_KEY
	"oidc":       (*readme).oidc,       // what stands inside a site; serves the two below
	"github":     (*readme).github,     // a workflow; its steps that push are run
	"gitlab":     (*readme).gitlab,     // a .gitlab-ci.yml; its script is run
	"client":     (*readme).client,     // what a user of Nix types; ./result is a built closure
	"curl":       (*readme).curl,       // the same without Nix
}

var runnable = []string{"sh", "bash", "console", "caddyfile", "Caddyfile", "ini", "conf", "yaml"}

var (
	fence  = regexp.MustCompile("^```([A-Za-z]*)$")
	marker = regexp.MustCompile(`^<!-- test: ([a-z.]+) -->$`)
)

// parseReadme returns the snippets, and a complaint for each block that nobody
// could run.
func parseReadme(text string) (snippets []snippet, complaints []string) {
	lines := strings.Split(text, "\n")
	for i := 0; i < len(lines); i++ {
		open := fence.FindStringSubmatch(lines[i])
		if open == nil {
			continue
		}
		start := i
		for i++; i < len(lines) && lines[i] != "```"; i++ {
		}
		s := snippet{line: start + 1, language: open[1], text: strings.Join(lines[start+1:min(i, len(lines))], "\n") + "\n"}
		if start > 0 {
			if m := marker.FindStringSubmatch(lines[start-1]); m != nil {
				s.fixture = m[1]
			}
		}
		switch {
		case i == len(lines):
			complaints = append(complaints, fmt.Sprintf("line %d: the block has no end", s.line))
		case s.fixture != "" && fixtures[s.fixture] == nil:
			complaints = append(complaints, fmt.Sprintf("line %d: there is no fixture %s", s.line, s.fixture))
		case s.fixture == "" && slices.Contains(runnable, s.language):
			complaints = append(complaints, fmt.Sprintf("line %d: the block says not how to test it: put <!-- test: fixture --> above", s.line))
		case s.fixture != "":
			snippets = append(snippets, s)
		}
	}
	return snippets, complaints
}

// readme runs snippets in one fresh copy of the checkout, as a user with one
// Nix. Port 8080 of the text is a free one.
type readme struct {
	clone   string
	port    string
	nix     *nixClient
	conf    []string // of every client, from the snippets
	tokens  string   // path of the token file
	closure string   // what ./result links to
	served  *caddy   // by the snippet "run"
	ci      *readmeCI
	pushed  bool
}

// perNix are the fixtures in which a Nix has a part; the others run once.
var perNix = []string{"keys", "run", "nix.conf", "client"}

func TestReadme(t *testing.T) {
	t.Parallel()
	snippets, complaints := parseReadme(readFile(t, checkout(t)+"/README.md"))
	for _, complaint := range complaints {
		t.Error(complaint)
	}
	if len(snippets) == 0 {
		t.Error("README.md has no snippet to run")
	}
	for i, flavor := range nixFlavors {
		t.Run("nix="+flavor.name, func(t *testing.T) {
			r := newReadme(t, flavor)
			for _, s := range snippets {
				if i == 0 || slices.Contains(perNix, s.fixture) {
					t.Logf("README.md:%d: %s", s.line, s.fixture)
					fixtures[s.fixture](r, t, s)
				}
			}
			r.checkPush(t)
		})
	}
}

func newReadme(t *testing.T, flavor nixFlavor) *readme {
	t.Helper()
	r := &readme{clone: cloneCheckout(t), port: freePort(t), nix: newNixClient(t, flavor)}
	r.closure = r.nix.buildClosure(t)
	if err := os.Symlink(r.closure, r.nix.dir+"/home/result"); err != nil {
		t.Fatal(err)
	}
	example := r.clone + "/Caddyfile.example"
	writeFile(t, example, r.here(readFile(t, example)))
	return r
}

// cloneCheckout copies what belongs to the source tree.
func cloneCheckout(t *testing.T) string {
	t.Helper()
	dir := tempDir(t)
	const clone = `cd "$1" && git -c safe.directory='*' ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -t "$2"`
	if out, err := exec.CommandContext(t.Context(), "sh", "-c", clone, "clone", checkout(t), dir).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return dir
}

// here puts this test's port into a text.
func (r *readme) here(text string) string {
	return strings.ReplaceAll(text, "localhost:8080", "localhost:"+r.port)
}

// script is what a shell runs of a snippet: of a console session the commands.
func (r *readme) script(s snippet) string {
	text := r.here(s.text)
	if s.language != "console" {
		return text
	}
	var commands strings.Builder
	for line := range strings.Lines(text) {
		if command, ok := strings.CutPrefix(line, "$ "); ok {
			commands.WriteString(command)
		}
	}
	return commands.String()
}

// environment is what the README tells its reader to choose.
func (r *readme) environment() []string {
	env := []string{"UPLOAD_TOKEN=" + uploadToken}
	if key, err := os.ReadFile(r.nix.dir + "/home/cache-key.pub"); err == nil {
		env = append(env, "NIX_PUBLIC_KEY="+strings.TrimSpace(string(key)))
	}
	return env
}

func (r *readme) shell(t *testing.T, dir, script string, env ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "bash", "-euo", "pipefail", "-c", script)
	cmd.Dir = dir
	cmd.Env = slices.Concat(os.Environ(), r.environment(), env)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s\n%s", err, script, out)
	}
}

func (r *readme) caddyfile(t *testing.T, s snippet) { r.validate(t, s.text) }

func (r *readme) directives(t *testing.T, s snippet) {
	r.validate(t, "http://localhost {\n"+s.text+"}\n")
}

// validate loads a Caddyfile without starting it. Placeholders of the
// environment are empty or have their defaults.
func (r *readme) validate(t *testing.T, caddyfile string) {
	t.Helper()
	file := tempDir(t) + "/Caddyfile"
	writeFile(t, file, r.withTokens(caddyfile))
	home := tempDir(t)
	r.shell(t, home, `"$CADDY" validate --adapter caddyfile --config "$FILE"`,
		"CADDY="+requireEnv(t, "CADDY"), "FILE="+file, "HOME="+home, "XDG_DATA_HOME="+home, "XDG_CONFIG_HOME="+home, "R2_ACCESS_KEY_ID=key", "R2_SECRET_ACCESS_KEY=secret")
}

func (r *readme) tokenFile(t *testing.T, s snippet) {
	r.tokens = tempDir(t) + "/tokens"
	writeFile(t, r.tokens, s.text)
}

func (r *readme) withTokens(caddyfile string) string {
	return strings.ReplaceAll(caddyfile, "/etc/nix-cache/tokens", r.tokens)
}

// netrc asks a private cache for a file that it lacks: a stranger is not told.
func (r *readme) netrc(t *testing.T, s snippet) {
	o := dirOrigin(t)
	c := startCaddy(t, site("http://localhost", r.withTokens("nix_cache {\n"+o.caddyfile+"\nprivate\ntoken_file /etc/nix-cache/tokens\n}")))
	file := tempDir(t) + "/netrc"
	writeFile(t, file, strings.ReplaceAll(s.text, "private.example.org", "localhost"))
	r.shell(t, r.clone, `test "$(curl --silent --netrc-file "$FILE" --output /dev/null --write-out '%{http_code}' "$URL")" = 404`,
		"FILE="+file, "URL="+c.HTTP+narinfoPath(signedPackage("absent", 1)))
}

func (r *readme) syntax(t *testing.T, s snippet) {
	r.shell(t, r.clone, `bash -n -c "$SCRIPT"`, "SCRIPT="+r.script(s))
}

func (r *readme) this(t *testing.T, s snippet) {
	if got := strings.TrimSpace(r.script(s)); got != "./integration/run.sh" {
		t.Errorf("the test command is %q", got)
	}
}

func (r *readme) xcaddy(t *testing.T, s snippet) {
	r.shell(t, r.clone, r.script(s), sharedBuildCache)
	wantHandler(t, r.clone+"/caddy")
}

// run serves until the test ends.
func (r *readme) run(t *testing.T, s snippet) {
	if r.served != nil {
		r.served.stop(t)
	}
	r.served = caddySetup{
		Command: []string{"bash", "-euo", "pipefail", "-c", "cd " + r.clone + "\n" + r.script(s)},
		Env:     slices.Concat(goEnv(t), r.environment()),
	}.start(t)
}

// client runs in the client's home.
func (r *readme) client(t *testing.T, s snippet) {
	script := "cd\nexport " + strings.Join(r.environment(), " ") + "\n" + r.script(s)
	r.nix.run(t, "/bin/bash", "-euo", "pipefail", "-c", script)
	r.pushed = r.pushed || strings.Contains(script, "nix copy --to")
}

// caddy runs in the checkout with the environment of the server, and a caddy in
// its PATH.
func (r *readme) caddy(t *testing.T, s snippet) {
	bin := tempDir(t)
	if err := os.Symlink(requireEnv(t, "CADDY"), bin+"/caddy"); err != nil {
		t.Fatal(err)
	}
	r.shell(t, r.clone, r.script(s), append(r.served.setup.Env, "PATH="+bin+":"+os.Getenv("PATH"))...)
}

func (r *readme) curl(t *testing.T, s snippet) { r.shell(t, r.nix.dir+"/home", r.script(s)) }

var publicKey = regexp.MustCompile(`[\w.-]+:[\w+/]{43}=`)

// nixConf adds to the client's settings, with the key of "keys" in place of the
// example's.
func (r *readme) nixConf(t *testing.T, s snippet) {
	key := strings.TrimSpace(readFile(t, r.nix.dir+"/home/cache-key.pub"))
	text := publicKey.ReplaceAllLiteralString(r.here(s.text), key)
	r.conf = append(r.conf, text)
	file := r.nix.dir + "/conf/nix.conf"
	writeFile(t, file, readFile(t, file)+text)
	if out := r.nix.run(t, "nix-store", "--version"); strings.Contains(out, "warning") {
		t.Errorf("nix.conf: %s", out)
	}
}

// checkPush pulls what the snippets pushed, as another user would.
func (r *readme) checkPush(t *testing.T) {
	t.Helper()
	if r.served == nil || !r.pushed {
		t.Fatal("the README serves nothing, or pushes nothing to what it serves")
	}
	user := newNixClient(t, r.nix.flavor, r.conf...)
	user.run(t, "nix-store", "--realise", r.closure)
	assertSameClosure(t, r.nix, user, r.closure)
}
