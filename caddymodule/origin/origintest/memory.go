package origintest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/stevedores-org/nix-cache/caddymodule/origin"
)

// Memory is an [origin.Origin] in memory. It counts operations (see Ops), and
// its behaviour can be changed while it is in use: hooks (OnOpen and its like)
// see an operation before it takes place and may refuse it, gates (Hold,
// HoldBody) keep it waiting, and CutBody and FlipByte spoil what is read.
//
// Hooks run without a lock, on the goroutine of the operation, so a hook may
// call the Memory's own methods: one that calls Put changes the object between
// two reads.
type Memory struct {
	name string

	mu struct {
		sync.Mutex
		objects  map[string]object
		versions int
		ops      map[operation]int
		hooks    hooks
		gates    []*Gate
		spoils   []*spoil
	}
}

// object is immutable, its data included.
type object struct {
	data        []byte
	contentType string
	info        origin.Info
}

type operation struct{ method, path string }

var _ origin.Origin = (*Memory)(nil)

// NewMemory returns an empty origin whose String is "memory".
func NewMemory() *Memory {
	m := &Memory{name: "memory"}
	m.mu.objects = make(map[string]object)
	m.mu.ops = make(map[operation]int)
	return m
}

// String returns "memory".
func (m *Memory) String() string { return m.name }

// Put stores a copy of data at path as a new version, past hooks and counters,
// and returns its description.
func (m *Memory) Put(path string, data []byte) origin.Info {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.storeLocked(path, bytes.Clone(data), "")
}

// Get returns the bytes stored at path, past hooks and counters. The caller
// doesn't change them.
func (m *Memory) Get(path string) (data []byte, ok bool) {
	o, ok := m.object(path)
	return o.data, ok
}

// ContentType returns what CreateOptions.ContentType was for the object at
// path; "" for an object stored by Put or none.
func (m *Memory) ContentType(path string) string {
	o, _ := m.object(path)
	return o.contentType
}

// Remove drops the object at path, past hooks and counters.
func (m *Memory) Remove(path string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.mu.objects, path)
}

// Paths returns the paths of all objects in lexical order, past hooks and
// counters.
func (m *Memory) Paths() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Sorted(maps.Keys(m.mu.objects))
}

// Ops returns how many operations of a method have begun: "open", "stat",
// "create", "commit", "abort", "delete" or "list". With paths (for "list":
// prefixes) it counts those on these paths only.
//
// An Abort after a Commit is no operation.
func (m *Memory) Ops(method string, paths ...string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := 0
	for op, count := range m.mu.ops {
		if op.method == method && (len(paths) == 0 || slices.Contains(paths, op.path)) {
			n += count
		}
	}
	return n
}

// ResetOps sets all counts back to 0.
func (m *Memory) ResetOps() {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.mu.ops)
}

// Open implements [origin.Reader]. It fails with what an OnOpen hook returned.
func (m *Memory) Open(ctx context.Context, path string, opts origin.OpenOptions) (origin.Info, io.ReadCloser, error) {
	if err := m.begin(ctx, "open", path); err != nil {
		return origin.Info{}, nil, err
	}
	if hook := m.hooks().open; hook != nil {
		if err := hook(path, opts); err != nil {
			return origin.Info{}, nil, err
		}
	}
	o, ok := m.object(path)
	if !ok {
		return origin.Info{}, nil, origin.NotExist("open", path)
	}
	if opts.IfMatch != "" && opts.IfMatch != o.info.ETag {
		return origin.Info{}, nil, fmt.Errorf("open %s: %w", path, origin.ErrChanged)
	}
	begin, end := span(o.info.Size, opts)
	return o.info, m.newBody(ctx, path, o.data[:end], begin), nil
}

// span returns where the bytes that opts asks for begin and end.
func span(size int64, opts origin.OpenOptions) (begin, end int64) {
	begin = min(opts.Offset, size)
	if opts.Length == 0 {
		return begin, size
	}
	return begin, begin + min(opts.Length, size-begin)
}

// Stat implements [origin.Reader]. It fails with what an OnStat hook returned.
func (m *Memory) Stat(ctx context.Context, path string) (origin.Info, error) {
	if err := m.begin(ctx, "stat", path); err != nil {
		return origin.Info{}, err
	}
	if hook := m.hooks().stat; hook != nil {
		if err := hook(path); err != nil {
			return origin.Info{}, err
		}
	}
	o, ok := m.object(path)
	if !ok {
		return origin.Info{}, origin.NotExist("stat", path)
	}
	return o.info, nil
}

// Delete implements [origin.Writer]. It fails with what an OnDelete hook
// returned.
func (m *Memory) Delete(ctx context.Context, path string) error {
	if err := m.begin(ctx, "delete", path); err != nil {
		return err
	}
	if hook := m.hooks().delete; hook != nil {
		if err := hook(path); err != nil {
			return err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.mu.objects[path]; !ok {
		return origin.NotExist("delete", path)
	}
	delete(m.mu.objects, path)
	return nil
}

// List implements [origin.Lister] over the objects of the moment it began. It
// fails with what an OnList hook returned.
func (m *Memory) List(ctx context.Context, prefix string) iter.Seq2[origin.Entry, error] {
	return func(yield func(origin.Entry, error) bool) {
		entries, err := m.list(ctx, prefix)
		if err != nil {
			yield(origin.Entry{}, err)
			return
		}
		for _, e := range entries {
			if err := ended(ctx, "list", prefix); err != nil {
				yield(origin.Entry{}, err)
				return
			}
			if !yield(e, nil) {
				return
			}
		}
	}
}

func (m *Memory) list(ctx context.Context, prefix string) ([]origin.Entry, error) {
	if err := m.begin(ctx, "list", prefix); err != nil {
		return nil, err
	}
	if hook := m.hooks().list; hook != nil {
		if err := hook(prefix); err != nil {
			return nil, err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var entries []origin.Entry
	for path, o := range m.mu.objects {
		if strings.HasPrefix(path, prefix) {
			entries = append(entries, origin.Entry{Path: path, Info: o.info})
		}
	}
	slices.SortFunc(entries, func(a, b origin.Entry) int { return strings.Compare(a.Path, b.Path) })
	return entries, nil
}

// begin counts an operation and waits for the gates before it.
func (m *Memory) begin(ctx context.Context, method, path string) error {
	m.mu.Lock()
	m.mu.ops[operation{method, path}]++
	gates := slices.Clone(m.mu.gates)
	m.mu.Unlock()
	for _, g := range gates {
		if g.holds(method, path) {
			g.wait(ctx)
		}
	}
	return ended(ctx, method, path)
}

func (m *Memory) object(path string) (object, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	o, ok := m.mu.objects[path]
	return o, ok
}

func (m *Memory) hooks() hooks {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.mu.hooks
}

// storeLocked takes over data.
func (m *Memory) storeLocked(path string, data []byte, contentType string) origin.Info {
	m.mu.versions++
	info := origin.Info{
		Size:    int64(len(data)),
		ETag:    fmt.Sprintf("version-%d", m.mu.versions),
		ModTime: time.Now(),
	}
	m.mu.objects[path] = object{data: data, contentType: contentType, info: info}
	return info
}

// ended is the error of an operation whose context has ended.
func ended(ctx context.Context, op, path string) error {
	err := ctx.Err()
	if err == nil {
		return nil
	}
	return &origin.UnavailableError{Op: op, Path: path, Timeout: err == context.DeadlineExceeded, Err: err}
}
