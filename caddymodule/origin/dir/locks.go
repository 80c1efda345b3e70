package dir

import (
	"context"
	"sync"
)

// locks lets one at a time change the object at a path.
type locks struct {
	mu struct {
		sync.Mutex
		held map[string]chan struct{} // closed when the path is free again
	}
}

// lock waits until path is free or the context has ended.
func (l *locks) lock(ctx context.Context, path string) (unlock func(), err error) {
	for {
		l.mu.Lock()
		busy, taken := l.mu.held[path]
		if !taken {
			free := make(chan struct{})
			l.mu.held[path] = free
			l.mu.Unlock()
			return func() { l.unlock(path, free) }, nil
		}
		l.mu.Unlock()
		select {
		case <-busy:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (l *locks) unlock(path string, free chan struct{}) {
	l.mu.Lock()
	delete(l.mu.held, path)
	l.mu.Unlock()
	close(free)
}
