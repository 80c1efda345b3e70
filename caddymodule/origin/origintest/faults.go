package origintest

import (
	"errors"

	"github.com/stevedores-org/nix-cache/caddymodule/origin"
)

// hooks are called before an operation takes place, if set, without a lock.
type hooks struct {
	open      func(path string, opts origin.OpenOptions) error
	stat      func(path string) error
	create    func(path string, opts origin.CreateOptions) error
	write     func(path string, p []byte) error
	commit    func(path string) error
	committed func(path string) error
	delete    func(path string) error
	list      func(prefix string) error
}

// OnOpen has hook called before each Open, from any goroutine. An error that
// it returns is Open's own. A later OnOpen replaces it; nil removes it. The
// same holds for the other On methods.
func (m *Memory) OnOpen(hook func(path string, opts origin.OpenOptions) error) {
	m.setHooks(func(h *hooks) { h.open = hook })
}

// OnStat has hook called before each Stat; see OnOpen.
func (m *Memory) OnStat(hook func(path string) error) {
	m.setHooks(func(h *hooks) { h.stat = hook })
}

// OnCreate has hook called before each Create; see OnOpen.
func (m *Memory) OnCreate(hook func(path string, opts origin.CreateOptions) error) {
	m.setHooks(func(h *hooks) { h.create = hook })
}

// OnWrite has hook called before each Write to a Staged; see OnOpen. After an
// error nothing of p is taken.
func (m *Memory) OnWrite(hook func(path string, p []byte) error) {
	m.setHooks(func(h *hooks) { h.write = hook })
}

// OnCommit has hook called before each Commit; see OnOpen. After an error
// nothing has changed.
func (m *Memory) OnCommit(hook func(path string) error) {
	m.setHooks(func(h *hooks) { h.commit = hook })
}

// OnCommitted has hook called after each Commit that took effect; see OnOpen.
// An error that it returns is Commit's own, as if the answer had been lost: it
// should be an *[origin.UnavailableError], see Unavailable.
func (m *Memory) OnCommitted(hook func(path string) error) {
	m.setHooks(func(h *hooks) { h.committed = hook })
}

// OnDelete has hook called before each Delete; see OnOpen.
func (m *Memory) OnDelete(hook func(path string) error) {
	m.setHooks(func(h *hooks) { h.delete = hook })
}

// OnList has hook called before each List yields; see OnOpen.
func (m *Memory) OnList(hook func(prefix string) error) {
	m.setHooks(func(h *hooks) { h.list = hook })
}

func (m *Memory) setHooks(set func(*hooks)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	set(&m.mu.hooks)
}

// ErrInjected is the cause of the errors of Unavailable.
var ErrInjected = errors.New("injected fault")

// Unavailable is an *[origin.UnavailableError] for hooks to return, with
// ErrInjected as its cause. Op is as in that type.
func Unavailable(op, path string) error {
	return &origin.UnavailableError{Op: op, Path: path, Err: ErrInjected}
}

// TimedOut is Unavailable with Timeout set.
func TimedOut(op, path string) error {
	return &origin.UnavailableError{Op: op, Path: path, Timeout: true, Err: ErrInjected}
}
