package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"github.com/stevedores-org/nix-cache/caddymodule/maintain"
)

// defaultWorkers is how many files the commands read at a time.
const defaultWorkers = 16

// signFlags are those of `caddy nix-cache sign`.
type signFlags struct {
	cacheFlags
	outputFlags
	keys     []string
	state    string
	admin    []string
	parallel int
}

func signCommand() *cobra.Command {
	f := new(signFlags)
	c := subcommand(&cobra.Command{
		Use:   "sign [--key <file>]... [--json] [--config <Caddyfile>] [--cache <name>] [--state <file>] [--admin <address>]...",
		Short: "Adds signatures to what a cache has stored",
		Long: `
Adds a signature by each key to all narinfos that the cache's origin has: by the
keys of --key, or else of sign_with in the config. Where trusted_public_key is
set, only what one of those keys signed is signed. What can't or should not be
signed is left as it is, and printed with the reason. What is signed already is
left as it is, too, so the command can be repeated.

It works beside running servers and uploads. Those servers may have narinfos in
memory and on disk that lack the signature: the one at --admin is told to forget
them. Run it on each machine that has such a cache, or give --admin repeatedly.

An interrupt ends it cleanly. With --state it writes to the file how far it
came, and the same command goes on from there. What was uploaded in the meantime
is not looked at if it belongs before that point.
` + fmt.Sprintf(jsonHelp, `"refused"`) + fmt.Sprintf(statusHelp, "some narinfos could not be\nsigned or a server given by --admin could not be told"),
	})
	f.cacheFlags.register(c)
	f.outputFlags.register(c)
	flags := c.Flags()
	flags.StringArrayVarP(&f.keys, "key", "k", nil, "file with a secret key to sign with (default: those of sign_with)")
	flags.StringVar(&f.state, "state", "", "file that keeps how far it came, removed at the end")
	flags.StringArrayVar(&f.admin, "admin", nil, "address of the admin endpoint of a server to tell, or off (default: that of the config, if a server answers)")
	flags.IntVar(&f.parallel, "parallel", defaultWorkers, "how many narinfos to sign at a time")
	c.RunE = runs(func(ctx context.Context, c *cobra.Command, args []string) (int, error) {
		if len(args) > 0 || f.parallel < 1 {
			return statusBroken, errors.New("expected flags only, and --parallel of at least 1")
		}
		run, err := f.prepare(c)
		if err != nil {
			return statusBroken, err
		}
		return run.sign(ctx)
	})
	return c
}

// signRun is one run of the command.
type signRun struct {
	signer    *maintain.Signer
	state     maintain.State
	stateFile string // "": none
	servers   *forgetter
	*progress
}

func (f *signFlags) prepare(c *cobra.Command) (*signRun, error) {
	log := commandLog(c)
	cache, err := f.load(log)
	if err != nil {
		return nil, err
	}
	keys, err := readKeys(f.keys, cache.trusted, log)
	if err == nil && len(f.keys) == 0 {
		keys, err = cache.signWith()
	}
	switch {
	case err != nil:
		return nil, err
	case len(keys) == 0:
		return nil, errors.New("there is no key to sign with: give --key <file>, or set sign_with")
	}
	run := &signRun{
		signer:    &maintain.Signer{Origin: cache.origin, Keys: keys, Trusted: cache.trusted, Parallel: f.parallel},
		stateFile: f.state,
		progress:  newProgress(c.OutOrStdout(), f.format(), c.ErrOrStderr()),
	}
	run.servers = newForgetter(cache, f.admin, run.note)
	if cache.trusted.Len() == 0 {
		run.note("no trusted_public_key is set: every narinfo that is well-formed gets a signature")
	}
	run.state = run.signer.NewState()
	if f.state != "" {
		run.state, err = run.signer.ReadState(f.state)
	}
	return run, err
}

// checkpoint is after how many narinfos the state is written.
const checkpoint = 1000

func (r *signRun) sign(ctx context.Context) (status int, err error) {
	if r.state.After != "" {
		r.note("going on after %s", r.state.After)
	}
	for signing, failed := range r.signer.All(ctx, r.state.After) {
		if failed != nil {
			return r.stop(ctx, failed)
		}
		r.state.Add(signing)
		switch signing.Outcome {
		case maintain.Refused:
			r.print(finding{"refused", signing.Path.String(), signing.Reason})
		case maintain.Signed, maintain.Present:
			r.servers.forget(signing.Path)
		}
		if r.seen()%checkpoint == 0 {
			if err := r.save(); err != nil {
				return statusBroken, err
			}
		}
		r.show(maintain.Position(signing.Path), quantity(r.seen(), "narinfo"))
	}
	return r.finish()
}

// finish is for a run that came to its end.
func (r *signRun) finish() (status int, err error) {
	r.servers.flush()
	if r.stateFile != "" {
		if err := os.Remove(r.stateFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return statusBroken, fmt.Errorf("remove state: %w", err)
		}
	}
	if r.seen() == 0 {
		r.noteEmpty(r.signer.Origin.String())
	}
	sum := r.summary()
	sum.Complete = true
	r.print(sum)
	if r.state.Counts[maintain.Refused] > 0 || r.servers.failed() {
		return statusFailed, nil
	}
	return statusOK, nil
}

// stop is for one that did not.
func (r *signRun) stop(ctx context.Context, err error) (status int, _ error) {
	if ctx.Err() != nil {
		err = errors.New("interrupted")
	}
	r.print(r.summary())
	if saved := r.save(); saved != nil {
		return statusBroken, fmt.Errorf("%w; and %w", err, saved)
	}
	switch {
	case r.seen() == 0:
	case r.stateFile == "":
		err = fmt.Errorf("%w; what is signed stays so, and with --state <file> it could go on from here", err)
	default:
		err = fmt.Errorf("%w; the same command goes on after %s", err, r.state.After)
	}
	return statusBroken, err
}

// save has servers forget before the state says that they need not.
func (r *signRun) save() error {
	r.servers.flush()
	if r.stateFile == "" || r.seen() == 0 {
		return nil
	}
	return r.state.Write(r.stateFile)
}

func (r *signRun) seen() int {
	seen := 0
	for _, n := range r.state.Counts {
		seen += n
	}
	return seen
}

// signSummary is what a run came to, with those before it that it goes on from.
type signSummary struct {
	Type     string `json:"type"` // "summary"
	Signed   int    `json:"signed"`
	Before   int    `json:"signed_before"`
	Refused  int    `json:"not_signed"`
	Complete bool   `json:"complete"`
}

func (s signSummary) String() string {
	return fmt.Sprintf("%d signed, %d signed before, %d not signed", s.Signed, s.Before, s.Refused)
}

func (r *signRun) summary() signSummary {
	n := r.state.Counts
	return signSummary{Type: "summary", Signed: n[maintain.Signed], Before: n[maintain.Present], Refused: n[maintain.Refused]}
}
