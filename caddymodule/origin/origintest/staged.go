package origintest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/stevedores-org/nix-cache/caddymodule/origin"
)

var errEnded = errors.New("already committed or aborted")

// staged is an object in the making in a Memory.
type staged struct {
	m     *Memory
	ctx   context.Context
	path  string
	opts  origin.CreateOptions
	data  []byte
	ended bool
}

// Create implements [origin.Writer]. It fails with what an OnCreate hook
// returned; the Staged's Write and Commit with what OnWrite, OnCommit and
// OnCommitted hooks did.
func (m *Memory) Create(ctx context.Context, path string, opts origin.CreateOptions) (origin.Staged, error) {
	if err := m.begin(ctx, "create", path); err != nil {
		return nil, err
	}
	if hook := m.hooks().create; hook != nil {
		if err := hook(path, opts); err != nil {
			return nil, err
		}
	}
	return &staged{m: m, ctx: ctx, path: path, opts: opts}, nil
}

func (s *staged) Write(p []byte) (int, error) {
	if s.ended {
		return 0, fmt.Errorf("create %s: %w", s.path, errEnded)
	}
	if err := ended(s.ctx, "create", s.path); err != nil {
		return 0, err
	}
	if hook := s.m.hooks().write; hook != nil {
		if err := hook(s.path, p); err != nil {
			return 0, err
		}
	}
	s.data = append(s.data, p...)
	return len(p), nil
}

func (s *staged) Commit() error {
	if s.ended {
		return fmt.Errorf("commit %s: %w", s.path, errEnded)
	}
	s.ended = true
	if err := s.m.begin(s.ctx, "commit", s.path); err != nil {
		return err
	}
	if hook := s.m.hooks().commit; hook != nil {
		if err := hook(s.path); err != nil {
			return err
		}
	}
	if err := s.store(); err != nil {
		return fmt.Errorf("commit %s: %w", s.path, err)
	}
	if hook := s.m.hooks().committed; hook != nil {
		return hook(s.path)
	}
	return nil
}

func (s *staged) store() error {
	if size := int64(len(s.data)); s.opts.Size >= 0 && s.opts.Size != size {
		return fmt.Errorf("%d bytes written, %d announced", size, s.opts.Size)
	}
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	old, exists := s.m.mu.objects[s.path]
	if s.opts.IfAbsent && exists {
		return fs.ErrExist
	}
	if s.opts.IfMatch != "" && s.opts.IfMatch != old.info.ETag {
		return origin.ErrChanged
	}
	s.m.storeLocked(s.path, s.data, s.opts.ContentType)
	return nil
}

func (s *staged) Abort() error {
	if s.ended {
		return nil
	}
	s.ended = true
	s.data = nil
	// An Abort works after the context has ended, so it doesn't wait on it.
	return s.m.begin(context.WithoutCancel(s.ctx), "abort", s.path)
}
