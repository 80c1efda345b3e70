package upload

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/stevedores-org/nix-cache/caddymodule/nix"
	"github.com/stevedores-org/nix-cache/caddymodule/origin"
)

// MalformedError says that what lies at a narinfo's path is not its narinfo.
type MalformedError struct {
	Path nix.CachePath
	Err  error
}

func (e *MalformedError) Error() string { return fmt.Sprintf("read %s: %v", e.Path, e.Err) }

func (e *MalformedError) Unwrap() error { return e.Err }

// ReadNARInfo reads the narinfo at path, and the version of it that
// origin.CreateOptions.IfMatch takes. It holds what is there to what an upload is
// held to, signatures aside; else the error is a *MalformedError, and the
// version is there as well.
func ReadNARInfo(ctx context.Context, o origin.Reader, path nix.CachePath) (n *nix.NARInfo, version string, err error) {
	text, version, err := readText(ctx, o, path)
	if err != nil {
		return nil, "", err
	}
	n, err = nix.ParseNARInfo(text)
	if err == nil && nix.NARInfoPath(n.StorePath) != path {
		err = fmt.Errorf("the narinfo is of %s, which belongs at %s", n.StorePath, nix.NARInfoPath(n.StorePath))
	}
	if err != nil {
		return nil, version, &MalformedError{path, err}
	}
	return n, version, nil
}

// readText reads a narinfo, or the beginning of what is too long for one, and its
// version.
func readText(ctx context.Context, o origin.Reader, path nix.CachePath) (text []byte, version string, err error) {
	info, body, err := o.Open(ctx, path.String(), origin.OpenOptions{})
	if err != nil {
		return nil, "", err
	}
	defer body.Close()
	text, err = io.ReadAll(io.LimitReader(body, nix.MaxNARInfoSize+1))
	if err == nil {
		return text, info.ETag, nil
	}
	if unavailable, ok := errors.AsType[*origin.UnavailableError](err); ok {
		return nil, "", unavailable
	}
	return nil, "", &origin.UnavailableError{Op: "read", Path: path.String(), Err: err}
}

// WriteNARInfo writes a narinfo to its path, under the conditions of opts.
func WriteNARInfo(ctx context.Context, o origin.Writer, n *nix.NARInfo, opts origin.CreateOptions) error {
	path := nix.NARInfoPath(n.StorePath)
	text, err := n.MarshalText()
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	opts.Size, opts.ContentType = int64(len(text)), narinfoContentType
	staged, err := o.Create(ctx, path.String(), opts)
	if err != nil {
		return err
	}
	defer staged.Abort()
	if _, err := staged.Write(text); err != nil {
		return err
	}
	return staged.Commit()
}
