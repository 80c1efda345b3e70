package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/stevedores-org/nix-cache/caddymodule/nix"
)

func keygenCommand() *cobra.Command {
	var output string
	c := subcommand(&cobra.Command{
		Use:   "keygen <name> [--output <file>]",
		Short: "Makes a key pair to sign packages with",
		Long: `
Makes a key pair in Nix's format. The secret key goes to a new file that only
its owner can read; a file that is there already is never overwritten. The
public key goes to standard output.

By custom the name is the cache's host name and a number, such as
cache.example.org-1: the next key must have another name.

Exit status: 0, or 2 if no key was made.`,
	})
	c.Flags().StringVarP(&output, "output", "o", "", "file for the secret key (default: <name>.secret)")
	c.RunE = runs(func(_ context.Context, c *cobra.Command, args []string) (int, error) {
		if len(args) != 1 {
			return statusBroken, fmt.Errorf("expected the key's name, such as cache.example.org-1, got %d words", len(args))
		}
		if err := keygen(c, args[0], output); err != nil {
			return statusBroken, err
		}
		return statusOK, nil
	})
	return c
}

func keygen(c *cobra.Command, name, file string) error {
	key, err := nix.GeneratePrivateKey(name)
	if err != nil {
		return err
	}
	if file == "" {
		file = name + ".secret"
		if strings.ContainsAny(name, `/\`) {
			return fmt.Errorf("the name %q makes no file name: give --output", name)
		}
	}
	if err := writeNewKey(file, key); err != nil {
		return err
	}
	fmt.Fprintln(c.OutOrStdout(), key.PublicKey())
	fmt.Fprintf(c.ErrOrStderr(), "The secret key is in %s: name it in sign_with, or sign with `nix store sign --key-file`. Whoever reads it can sign as you.\n"+
		"The public key above goes to trusted-public-keys in nix.conf, and to trusted_public_key of a cache that takes what the secret one signed.\n", file)
	return nil
}

// writeNewKey makes a file, with nothing but the key in it, as Nix does.
func writeNewKey(file string, key nix.PrivateKey) error {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s is there already, and is not overwritten: give another --output", file)
	}
	if err != nil {
		return fmt.Errorf("write key file %s: %w", file, cause(err))
	}
	_, err = f.WriteString(key.SecretText())
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		os.Remove(file)
		return fmt.Errorf("write key file %s: %w", file, cause(err))
	}
	return nil
}
