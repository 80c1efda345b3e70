package caddymodule

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/stevedores-org/nix-cache/caddymodule/nix"
)

// maxSigningKeys leaves room in a narinfo for the signatures of others.
const maxSigningKeys = nix.MaxSignatures / 2

func (h *Handler) resolveSignWith(v *values, trusted nix.PublicKeys) []nix.PrivateKey {
	var files []string
	for _, value := range h.SignWith {
		if file := v.text("sign_with", value, ""); file != "" {
			files = append(files, file)
		}
	}
	if v.err != nil {
		return nil
	}
	keys, err := readKeys(files, trusted, h.log)
	v.fail("sign_with", err)
	return keys
}

func (h *Handler) warnOfSigning() {
	if len(h.set.signWith) > 0 && h.set.trustedKeys.Len() == 0 {
		h.log.Warn("sign_with is set, but no trusted_public_key: whatever is pushed gets our signature", "keys", keyNames(h.set.signWith))
	}
}

func keyNames(keys []nix.PrivateKey) string {
	names := make([]string, len(keys))
	for i, k := range keys {
		names[i] = k.Name()
	}
	return strings.Join(names, " ")
}

// readKeys reads the secret keys in files, each key once. Two different ones of
// a name are an error, whether both are to sign or one of them is trusted: who
// knows the one takes all signatures of the other for wrong.
func readKeys(files []string, trusted nix.PublicKeys, log *slog.Logger) ([]nix.PrivateKey, error) {
	var keys []nix.PrivateKey
	var public []nix.PublicKey
	for _, file := range files {
		key, err := readKey(file, log)
		if err != nil {
			return nil, err
		}
		if other, ok := trusted.ByName(key.Name()); ok && other != key.PublicKey() {
			return nil, fmt.Errorf("key file %s: trusted_public_key has another key of the name %q; generate a key of a new name", file, key.Name())
		}
		public = append(public, key.PublicKey())
		set, err := nix.NewPublicKeys(public...)
		if err != nil {
			return nil, fmt.Errorf("key file %s: %w", file, err)
		}
		if set.Len() > len(keys) {
			keys = append(keys, key)
		}
	}
	if len(keys) > maxSigningKeys {
		return nil, fmt.Errorf("expected at most %d keys, got %d", maxSigningKeys, len(keys))
	}
	return keys, nil
}

// maxKeyFile is far more than a key takes, in bytes.
const maxKeyFile = 4 << 10

// readKey reads a file with one secret key. Its error names the file, and holds
// nothing of what is in it, nor of a key that is given in place of a file.
func readKey(file string, log *slog.Logger) (nix.PrivateKey, error) {
	if looksLikeKey(file) {
		return nix.PrivateKey{}, errors.New("expected the path of a file with a secret key, got a key")
	}
	if abs, err := filepath.Abs(file); err == nil {
		file = abs
	}
	text, err := readKeyText(file, log)
	if err == nil {
		var key nix.PrivateKey
		if key, err = nix.ParsePrivateKey(strings.TrimSpace(text)); err == nil {
			return key, nil
		}
	}
	return nix.PrivateKey{}, fmt.Errorf("read key file %s: %w", file, err)
}

// looksLikeKey reports whether what should be a path is more likely a secret key,
// maybe a damaged one.
func looksLikeKey(file string) bool {
	const least = 64 // characters; a whole key has 88
	_, data, named := strings.Cut(strings.TrimSpace(file), ":")
	_, err := os.Lstat(file)
	return err != nil && named && len(data) >= least
}

func readKeyText(file string, log *slog.Logger) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", cause(err)
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o007 != 0 {
		log.Warn("a secret key can be read or written by every user of this machine: chmod 600", "file", file)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	switch {
	case err != nil:
		return "", cause(err)
	case len(text) > maxKeyFile:
		return "", errors.New("it is too long for a key")
	}
	return string(text), nil
}

// cause leaves out operation and path, which stand before it already.
func cause(err error) error {
	if path, ok := errors.AsType[*fs.PathError](err); ok {
		return path.Err
	}
	return err
}
