package cache

import "context"

// places bounds how many do something at a time. A nil places has no bound.
type places chan struct{}

func (p places) take(ctx context.Context) error {
	if p == nil {
		return nil
	}
	select {
	case p <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (p places) giveBack() {
	if p != nil {
		<-p
	}
}
