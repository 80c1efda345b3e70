package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"
)

func init() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "nix-cache",
		Usage: "<command>",
		Short: "Makes keys, signs and verifies what a Nix binary cache has stored",
		Long: `
Commands for the operator of a Nix binary cache, on what its origin has. They
work beside running servers.`,
		CobraFunc: func(c *cobra.Command) {
			c.AddCommand(keygenCommand(), signCommand(), verifyCommand())
			c.DisableFlagsInUseLine = true
			c.RunE = func(c *cobra.Command, args []string) error {
				if len(args) == 0 {
					return exit(c, statusBroken, c.Help())
				}
				return exit(c, statusBroken, fmt.Errorf("unknown command %q: expected keygen, sign or verify", args[0]))
			}
		},
	})
}

// The exit statuses of the commands.
const (
	statusOK     = 0
	statusFailed = 1 // it came to its end, and something is wrong
	statusBroken = 2 // it did not come to its end
)

const statusHelp = `
Exit status: 0 if all is well, 1 if %s, 2 if it did
not come to its end: it was called wrongly, interrupted, or could not reach
the origin.`

// errStatus is an exit status of 1; what is wrong has been printed.
var errStatus = errors.New("something is wrong")

// runs makes a command's RunE. What do returns is printed as one line, and ends
// in its status; an interrupt ends its context, and a second one the process.
func runs(do func(ctx context.Context, c *cobra.Command, args []string) (status int, err error)) func(*cobra.Command, []string) error {
	return func(c *cobra.Command, args []string) error {
		ctx, stop := signal.NotifyContext(c.Context(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		context.AfterFunc(ctx, stop)
		status, err := do(ctx, c, args)
		return exit(c, status, err)
	}
}

// exit ends a command with a status, which only Caddy's own wrapper can carry if
// it is more than 1.
func exit(c *cobra.Command, status int, err error) error {
	c.SilenceErrors, c.SilenceUsage = true, true
	if err != nil {
		fmt.Fprintf(c.ErrOrStderr(), "%s: %v\n", c.CommandPath(), err)
	}
	switch status {
	case statusOK:
		return nil
	case statusFailed:
		return errStatus
	default:
		return caddycmd.WrapCommandFuncForCobra(func(caddycmd.Flags) (int, error) { return status, nil })(c, nil)
	}
}

// subcommand gives a command its status for being called wrongly.
func subcommand(c *cobra.Command) *cobra.Command {
	c.DisableFlagsInUseLine = true
	c.SetFlagErrorFunc(func(c *cobra.Command, err error) error { return exit(c, statusBroken, err) })
	return c
}

// commandLog is for what a config has to warn of.
func commandLog(c *cobra.Command) *slog.Logger {
	return slog.New(slog.NewTextHandler(c.ErrOrStderr(), &slog.HandlerOptions{Level: slog.LevelWarn}))
}
