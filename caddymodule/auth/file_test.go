package auth

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// tokenFile is a token file and what is logged of it.
type tokenFile struct {
	*File
	log bytes.Buffer
}

// openFile opens a token file with a text, beside a config with a token.
func openFile(t *testing.T, text string) (*tokenFile, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "tokens")
	replaceFile(t, path, text)
	f := new(tokenFile)
	config := tokens(t, map[string]Token{"of the config": {"operator", Upload}, "spaceless": {"other", Read}})
	var err error
	f.File, err = OpenFile(path, config, slog.New(slog.NewTextHandler(&f.log, nil)))
	return f, err
}

func mustOpenFile(t *testing.T, text string) *tokenFile {
	t.Helper()
	f, err := openFile(t, text)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// replaceFile replaces a file in one step, editFile in place.
func replaceFile(t *testing.T, path, text string) {
	t.Helper()
	editFile(t, path+".new", text)
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

func editFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (f *tokenFile) want(t *testing.T, secret, name string) {
	t.Helper()
	token, err := f.Identify(t.Context(), secret)
	if token.Name != name || name == "" && !errors.Is(err, ErrUnknownCredential) || name != "" && err != nil {
		t.Errorf("Identify(%q) = %q, %v; want %q", secret, token.Name, err, name)
	}
}

// inASecond is when a change has to be in force.
func inASecond() { <-time.After(lookEvery + settling) }

func TestFile(t *testing.T) {
	f := mustOpenFile(t, "# name secret rights\n\n  ci  s1 upload\tread  \r\n\t# indented\njanitor "+hashed("s2")+" delete")
	f.want(t, "s1", "ci")
	f.want(t, "s2", "janitor")
	f.want(t, hashed("s2"), "")
	f.want(t, "of the config", "")
	if !f.Any(Upload|Read) || !f.Any(Delete) || f.Any(Delete|Read) {
		t.Error("the rights are not those of the lines")
	}
	if f.log.Len() > 0 {
		t.Errorf("logged: %s", &f.log)
	}
}

func TestMistakesInAFile(t *testing.T) {
	const secret = "hunter2hunter2"
	for _, test := range []struct{ text, want string }{
		{"ci", ":1: expected a name, a secret and rights, got 1 words"},
		{"# one\n\nci " + secret, ":3: expected a name, a secret and rights, got 2 words"},
		{"ci " + secret + " write\n", `:1: unknown right "write"`},
		{secret + " ci upload " + secret, ":1: unknown right: expected"},
		{"ci {env." + secret + "} upload", ":1: placeholders"},
		{"ci {$" + secret + "} upload", ":1: placeholders"},
		{"ci sha256:" + secret + " upload", ":1: after sha256:"},
		{"ci read upload", ":1: the name of a right, read, stands where the secret should"},
		{"a " + secret + " upload\n\nb " + secret + " read", ":3: the secret is the same as in line 1"},
		{"a " + secret + " upload\nb " + hashed(secret) + " read", ":2: the secret is the same as in line 1"},
		{"a spaceless read", ":1: the secret is the same as that of the token other in the config"},
		{"a " + hashed("of the config") + " read", ":1: the secret is the same as that of the token operator in the config"},
		{strings.Repeat("#", maxFileSize+1), "it has more than"},
	} {
		_, err := openFile(t, test.text)
		if err == nil {
			t.Errorf("%.80q was accepted", test.text)
			continue
		}
		if !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%.80q: %v\nwant one line with %q", test.text, err, test.want)
		}
		if strings.Contains(err.Error(), secret) {
			t.Errorf("the error shows the secret: %v", err)
		}
	}
}

func TestWhatIsNoFile(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "missing")
	if _, err := OpenFile(missing, new(Tokens), slog.Default()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
	if _, err := OpenFile(t.TempDir(), new(Tokens), slog.Default()); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("a directory: %v", err)
	}
}

func TestWarningsOfAFile(t *testing.T) {
	for text, want := range map[string]string{
		"":                              "it lets nobody in",
		"# nobody yet\n":                "it lets nobody in",
		"ci old upload\nci new upload":  "token=ci",
		"operator new upload":           "token=operator",
		"a one upload\noperator b read": "token=operator",
	} {
		f := mustOpenFile(t, text)
		if strings.Count(f.log.String(), "level=WARN") != 1 || !strings.Contains(f.log.String(), want) {
			t.Errorf("%q: logged %q, want one warning with %q", text, f.log.String(), want)
		}
	}
}

func TestWarningOfAFileThatIsOpenToAll(t *testing.T) {
	for _, test := range []struct {
		mode   os.FileMode
		secret string
		want   string // "" for no warning
	}{
		{0o600, "plain", ""}, {0o640, "plain", ""}, {0o644, "plain", "can be read"}, {0o646, "plain", "can be written"},
		{0o644, hashed("x"), ""}, {0o602, hashed("x"), "can be written"},
	} {
		path, log := filepath.Join(t.TempDir(), "tokens"), new(strings.Builder)
		editFile(t, path, "ci "+test.secret+" upload\n")
		if err := os.Chmod(path, test.mode); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenFile(path, new(Tokens), slog.New(slog.NewTextHandler(log, nil))); err != nil {
			t.Fatal(err)
		}
		if got := log.String(); !strings.Contains(got, test.want) || (test.want == "") != (got == "") {
			t.Errorf("mode %o: logged %q, want %q", test.mode, got, test.want)
		}
	}
}

// TestChangesOfAFile: each in force within about a second, whichever way the file is changed.
func TestChangesOfAFile(t *testing.T) {
	for name, change := range map[string]func(t *testing.T, path, text string){"renamed": replaceFile, "in place": editFile} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := mustOpenFile(t, "ci s1 upload\nold s2 read\n")
				change(t, f.path, "ci s1 upload\n")
				f.want(t, "s2", "old") // nobody looks more often than once a second
				inASecond()
				f.want(t, "s2", "")
				f.want(t, "s1", "ci")
				if f.Any(Read) {
					t.Error("the right of the line that is gone is still there")
				}
				change(t, f.path, "ci s3 upload\n") // as long as before
				<-time.After(time.Hour)             // also if nobody asked meanwhile
				f.want(t, "s1", "")
				f.want(t, "s3", "ci")
				change(t, f.path, "")
				inASecond()
				f.want(t, "s3", "")
				if n := strings.Count(f.log.String(), "has changed"); n != 3 {
					t.Errorf("%d changes are logged, want 3:\n%s", n, &f.log)
				}
			})
		})
	}
}

// TestAFileInTheMaking: one that is just being written is left alone.
func TestAFileInTheMaking(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := mustOpenFile(t, "ci s1 upload\nnew s2 read\n")
		<-time.After(lookEvery)
		touch := func() {
			if err := os.Chtimes(f.path, time.Now(), time.Now()); err != nil {
				t.Fatal(err)
			}
		}
		for _, text := range []string{"", "ci s1 upload\n", "ci s1 upload\nne", "ci s1 upload\nnew s3 read\n"} {
			editFile(t, f.path, text)
			touch()
			f.want(t, "s1", "ci")
			f.want(t, "s2", "new")
			<-time.After(settling / 2)
		}
		<-time.After(settling)
		f.want(t, "s3", "new")
		f.want(t, "s2", "")
		if strings.Contains(f.log.String(), "ERROR") {
			t.Errorf("logged: %s", &f.log)
		}
	})
}

// TestBadVersionsOfAFile: the tokens stay, and each is logged once.
func TestBadVersionsOfAFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const secret = "hunter2hunter2"
		f := mustOpenFile(t, "ci s1 upload\n")
		errorsLogged := func(want int) {
			t.Helper()
			for range 3 { // three looks
				inASecond()
				f.want(t, "s1", "ci")
			}
			if n := strings.Count(f.log.String(), "level=ERROR"); n != want {
				t.Errorf("%d errors are logged, want %d:\n%s", n, want, &f.log)
			}
		}
		errorsLogged(0)
		editFile(t, f.path, "ci "+secret+" uplaod\n")
		errorsLogged(1)
		editFile(t, f.path, "ci "+secret+" dwonload\n")
		errorsLogged(2)
		if err := os.Remove(f.path); err != nil {
			t.Fatal(err)
		}
		errorsLogged(3)
		editFile(t, f.path, "ci s1 upload\n")
		errorsLogged(3)
		if err := os.Remove(f.path); err != nil {
			t.Fatal(err)
		}
		errorsLogged(4)
		editFile(t, f.path, "ci "+secret+" read\n")
		inASecond()
		f.want(t, secret, "ci")
		f.want(t, "s1", "")
		if strings.Contains(f.log.String(), secret) {
			t.Errorf("the log shows the secret:\n%s", &f.log)
		}
	})
}

// TestAFileIsUsedByMany under the race detector, while it changes.
func TestAFileIsUsedByMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := mustOpenFile(t, "always s read\nv0 0 upload\n")
		done := make(chan struct{})
		for range 8 {
			go func() {
				for {
					select {
					case <-done:
						return
					case <-time.After(lookEvery / 7):
						f.want(t, "s", "always")
						f.Any(Upload)
					}
				}
			}()
		}
		for i := range 20 {
			replaceFile(t, f.path, fmt.Sprintf("always s read\nv%d %d upload\n", i, i))
			inASecond()
			f.want(t, fmt.Sprint(i), fmt.Sprint("v", i))
		}
		close(done)
	})
}

func FuzzFile(f *testing.F) {
	for _, text := range []string{
		"", "# none\n", "ci s1 upload\n", "ci s1 upload read\r\nb s2 delete", "ci", "ci {env.X} read", "a b c",
		"ci " + hashed("s") + " read", "a s read\nb s read\n", "\x00 \xff read", "a\u00a0b read read",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		v, err := (&File{path: "tokens", config: new(Tokens)}).parse([]byte(text))
		if err != nil {
			if !strings.HasPrefix(err.Error(), "tokens:") || strings.Contains(err.Error(), "\n") {
				t.Errorf("error: %q", err)
			}
			return
		}
		for line := range strings.Lines(text) {
			words := strings.Fields(line)
			if len(words) == 0 || strings.HasPrefix(words[0], "#") || strings.HasPrefix(words[1], hashPrefix) {
				continue
			}
			rights, err := ParseRights(words[2:])
			got, unknown := v.tokens.Identify(t.Context(), words[1])
			if err != nil || unknown != nil || got != (Token{words[0], rights}) {
				t.Errorf("%q: %+v, %v, %v", line, got, err, unknown)
			}
		}
	})
}
