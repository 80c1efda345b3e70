package auth

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync/atomic"
	"time"
)

const (
	// lookEvery is how long a change of a token file may go unnoticed.
	lookEvery = time.Second

	// settling is how long a file must have been left alone before it is read:
	// one that is written in place is empty for a moment, then half there.
	settling = 100 * time.Millisecond

	maxFileSize = 1 << 20
)

// File is the authority of a file of tokens. Each line has one, as a name, its
// secret as ParseSecret takes it, and its rights, with spaces between them; blank
// lines and lines that begin with # have none:
//
//	ci       correct-horse-battery-staple  read upload
//	janitor  sha256:2c26b46b68ffc68f…      delete
//
// The file is looked at when it is used, at most once a second, and what it says
// by then is in force. A version that can't be read or has a mistake changes
// nothing: the tokens stay those of the last good one, also when the file is gone.
// Who wants to let nobody in leaves it there without a token.
type File struct {
	path   string
	config *Tokens
	log    *slog.Logger

	tokens   atomic.Pointer[Tokens]
	opened   time.Time
	nextLook atomic.Int64 // in nanoseconds after opened
	looking  atomic.Bool  // held by whoever uses seen
	seen     struct {
		inForce   [sha256.Size]byte // hash of the version that the tokens are of
		complaint complaint         // the last one
	}
}

// complaint is what is wrong with a version, and is logged once.
type complaint struct {
	version [sha256.Size]byte
	text    string
}

// version is what a token file says at some time.
type version struct {
	hash     [sha256.Size]byte
	tokens   *Tokens
	repeated []string // names, the config's included
	plain    bool     // it has a secret that is not hashed
}

// OpenFile reads a token file. No secret in it may be one of the config's, which
// come first. An error names the line, and shows no secret.
func OpenFile(path string, config *Tokens, log *slog.Logger) (*File, error) {
	text, _, err := readFile(path)
	if err != nil {
		return nil, err
	}
	f := &File{path: path, config: config, log: log.With("file", path), opened: time.Now()}
	v, err := f.parse(text)
	if err != nil {
		return nil, err
	}
	f.enforce(v)
	f.nextLook.Store(int64(lookEvery))
	return f, nil
}

// Identify tells whose secret it is, as Tokens do.
func (f *File) Identify(ctx context.Context, presented string) (Token, error) {
	return f.current().Identify(ctx, presented)
}

// Any reports whether the file has a token with the right.
func (f *File) Any(right Rights) bool { return f.current().Any(right) }

// current returns the tokens in force. While one caller looks at the file, the
// others don't wait for it.
func (f *File) current() *Tokens {
	if int64(time.Since(f.opened)) >= f.nextLook.Load() && f.looking.CompareAndSwap(false, true) {
		next := f.look()
		f.nextLook.Store(int64(time.Since(f.opened) + next))
		f.looking.Store(false)
	}
	return f.tokens.Load()
}

// look takes over what the file says, and returns when to look again. It compares
// contents: a secret that is replaced by another of the same length, within one
// tick of the file system's clock, shows nowhere else.
func (f *File) look() (next time.Duration) {
	text, age, err := readFile(f.path)
	hash := sha256.Sum256(text)
	if err == nil && hash == f.seen.inForce {
		f.seen.complaint = complaint{}
		return lookEvery
	}
	if err == nil && 0 <= age && age < settling {
		return settling
	}
	var v version
	if err == nil {
		v, err = f.parse(text)
	}
	if err != nil {
		f.complain(complaint{hash, err.Error()})
		return lookEvery
	}
	f.log.Info("the token file has changed", "tokens", len(v.tokens.known))
	f.enforce(v)
	return lookEvery
}

func (f *File) complain(c complaint) {
	if c != f.seen.complaint {
		f.log.Error("the token file can't be used: the tokens stay as they were", "error", c.text)
		f.seen.complaint = c
	}
}

// enforce puts a version in force. It warns of names that stand twice: they may be
// of one user, as while a secret is being replaced, but the log can't tell them apart.
func (f *File) enforce(v version) {
	for _, name := range v.repeated {
		f.log.Warn("two tokens have the same name", "token", name)
	}
	if len(v.tokens.known) == 0 {
		f.log.Warn("the token file has no token: it lets nobody in")
	}
	if others := f.openTo(v); others != "" {
		f.log.Warn("the token file can be " + others + " by every user of this machine: chmod 600")
	}
	f.seen.inForce, f.seen.complaint = v.hash, complaint{}
	f.tokens.Store(v.tokens)
}

// openTo returns what all users of the machine can do to the file that they should
// not. They may read one that has only hashes of secrets.
func (f *File) openTo(v version) string {
	info, err := os.Stat(f.path)
	switch {
	case err != nil:
		return ""
	case info.Mode().Perm()&0o002 != 0:
		return "written"
	case info.Mode().Perm()&0o004 != 0 && v.plain:
		return "read"
	}
	return ""
}

// readFile returns what a token file says, and how long ago it was written.
func readFile(path string) (text []byte, age time.Duration, err error) {
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return nil, 0, fmt.Errorf("open %s: it is not a regular file", path)
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, 0, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, 0, err
	}
	text, err = io.ReadAll(io.LimitReader(file, maxFileSize+1))
	if err == nil && len(text) > maxFileSize {
		err = fmt.Errorf("read %s: it has more than %d bytes", path, maxFileSize)
	}
	return text, time.Since(info.ModTime()), err
}

func (f *File) parse(text []byte) (version, error) {
	v := version{hash: sha256.Sum256(text), tokens: new(Tokens)}
	lines, names := map[Secret]int{}, f.config.names()
	number := 0
	for line := range strings.Lines(string(text)) {
		number++
		words := strings.Fields(line)
		if len(words) == 0 || words[0][0] == '#' {
			continue
		}
		k, err := parseLine(words)
		if err == nil {
			err = f.unique(k.secret, lines)
		}
		if err != nil {
			return version{}, fmt.Errorf("%s:%d: %w", f.path, number, err)
		}
		if names[k.token.Name] {
			v.repeated = append(v.repeated, k.token.Name)
		}
		lines[k.secret], names[k.token.Name] = number, true
		v.plain = v.plain || !strings.HasPrefix(words[1], hashPrefix)
		v.tokens.known = append(v.tokens.known, k)
	}
	return v, nil
}

// parseLine shows no name in its errors: it may be a secret in the wrong place.
func parseLine(words []string) (known, error) {
	if len(words) < 3 {
		return known{}, fmt.Errorf("expected a name, a secret and rights, got %d words", len(words))
	}
	if strings.HasPrefix(words[1], "{") && strings.HasSuffix(words[1], "}") {
		return known{}, errors.New("placeholders are not replaced here: write the secret, or sha256: and its hash")
	}
	secret, err := ParseSecret(words[1])
	if err != nil {
		return known{}, err
	}
	rights, err := ParseRights(words[2:])
	return known{secret, Token{Name: words[0], Rights: rights}}, err
}

// unique refuses a secret of which nobody could tell whose it is.
func (f *File) unique(secret Secret, lines map[Secret]int) error {
	if line, taken := lines[secret]; taken {
		return fmt.Errorf("the secret is the same as in line %d: give each token its own", line)
	}
	if token, taken := f.config.holder(secret); taken {
		return fmt.Errorf("the secret is the same as that of the token %s in the config: give each token its own", token.Name)
	}
	return nil
}
