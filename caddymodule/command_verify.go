package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/stevedores-org/nix-cache/caddymodule/maintain"
	"github.com/stevedores-org/nix-cache/caddymodule/nix"
)

// verifyFlags are those of `caddy nix-cache verify`.
type verifyFlags struct {
	cacheFlags
	outputFlags
	quick    bool
	parallel int
}

func verifyCommand() *cobra.Command {
	f := new(verifyFlags)
	c := subcommand(&cobra.Command{
		Use:   "verify [<store path or its hash>...] [--quick] [--json] [--config <Caddyfile>] [--cache <name>]",
		Short: "Checks what a cache has stored",
		Long: `
Checks the narinfos of the given store paths, or all that the cache's origin has:
that they are well-formed and in their place, that a key of trusted_public_key
signed them, that their NARs are there with the size they say, and that these
have the hash they say, as they are and decompressed. With --quick no NAR is
read.

Each problem is a line on standard output. Lines with "note:" tell what need not
be wrong: references that are not in this cache, and, where all is checked, NARs
that no narinfo refers to, as of an upload that was broken off.
` + fmt.Sprintf(jsonHelp, `"problem" or "note"`) + fmt.Sprintf(statusHelp, "there are problems"),
	})
	f.cacheFlags.register(c)
	f.outputFlags.register(c)
	c.Flags().BoolVar(&f.quick, "quick", false, "don't read NARs")
	c.Flags().IntVar(&f.parallel, "parallel", defaultWorkers, "how many narinfos, with their NARs, to check at a time")
	c.RunE = runs(func(ctx context.Context, c *cobra.Command, args []string) (int, error) {
		return f.verify(ctx, c, args)
	})
	return c
}

func (f *verifyFlags) verify(ctx context.Context, c *cobra.Command, args []string) (status int, err error) {
	if f.parallel < 1 {
		return statusBroken, errors.New("expected --parallel of at least 1")
	}
	paths, err := narinfoPaths(args)
	if err != nil {
		return statusBroken, err
	}
	cache, err := f.load(commandLog(c))
	if err != nil {
		return statusBroken, err
	}
	checker := &maintain.Checker{Origin: cache.origin, Trusted: cache.trusted, Quick: f.quick, Parallel: f.parallel}
	run := &verifyRun{progress: newProgress(c.OutOrStdout(), f.format(), c.ErrOrStderr()), given: len(paths), origin: cache.origin.String()}
	if cache.trusted.Len() == 0 {
		run.note("no trusted_public_key is set: signatures are not checked")
	}
	reports := checker.All(ctx)
	if len(paths) > 0 {
		reports = checker.Paths(ctx, paths...)
	}
	return run.report(ctx, reports)
}

// narinfoPaths reads the arguments: store paths or paths in one, their base names,
// hashes or the names of narinfos.
func narinfoPaths(args []string) ([]nix.CachePath, error) {
	var paths []nix.CachePath
	for _, arg := range args {
		base, _, _ := strings.Cut(strings.TrimPrefix(arg, nix.StoreDir+"/"), "/")
		hash, _, _ := strings.Cut(strings.TrimSuffix(base, ".narinfo"), "-")
		path, err := nix.ParseCachePath(hash + ".narinfo")
		if err != nil {
			return nil, fmt.Errorf("%q: expected a path such as %s/<hash>-<name>, or its hash alone", arg, nix.StoreDir)
		}
		paths = append(paths, path)
	}
	return paths, nil
}

// verifyRun is one run of the command.
type verifyRun struct {
	*progress
	origin string
	given  int // narinfos that are to be verified; 0: all
	sum    verifySummary
}

// verifySummary is what a run came to.
type verifySummary struct {
	Type         string `json:"type"` // "summary"
	Narinfos     int    `json:"narinfos"`
	WithProblems int    `json:"with_problems"`
	Notes        int    `json:"notes"`
	Bytes        int64  `json:"nar_bytes"` // of NARs, that were read
	Complete     bool   `json:"complete"`
}

func (s verifySummary) String() string {
	text := fmt.Sprintf("%s verified, %s of NARs read: %d with problems, %s",
		quantity(s.Narinfos, "narinfo"), humanize.Bytes(uint64(s.Bytes)), s.WithProblems, quantity(s.Notes, "note"))
	if !s.Complete {
		text += ", and not all was verified"
	}
	return text
}

func (r *verifyRun) report(ctx context.Context, reports iter.Seq2[maintain.Report, error]) (status int, err error) {
	r.sum.Type = "summary"
	for report, failed := range reports {
		if failed != nil {
			if ctx.Err() != nil {
				failed = errors.New("interrupted")
			}
			r.print(r.sum)
			return statusBroken, failed
		}
		r.add(report)
	}
	if r.sum.Narinfos == 0 {
		r.noteEmpty(r.origin)
	}
	r.sum.Complete = true
	r.print(r.sum)
	if r.sum.WithProblems > 0 {
		return statusFailed, nil
	}
	return statusOK, nil
}

func (r *verifyRun) add(report maintain.Report) {
	for _, problem := range report.Problems {
		r.print(finding{"problem", report.Path.String(), problem})
	}
	for _, note := range report.Notes {
		r.print(finding{"note", report.Path.String(), note})
	}
	if len(report.Problems) > 0 {
		r.sum.WithProblems++
	}
	r.sum.Notes += len(report.Notes)
	r.sum.Bytes += report.Bytes
	if report.Path.Kind() != nix.KindNARInfo {
		return
	}
	r.sum.Narinfos++
	position := maintain.Position(report.Path)
	if r.given > 0 {
		position = float64(r.sum.Narinfos) / float64(r.given)
	}
	r.show(position, fmt.Sprintf("%s, %d with problems", quantity(r.sum.Narinfos, "narinfo"), r.sum.WithProblems))
}
