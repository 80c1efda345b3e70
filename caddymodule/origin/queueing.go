package origin

import "context"

type queueingKey struct{}

// WithQueueing returns a context for one operation under which the origin tells
// when a request has to wait behind others of ours: it calls begin, and what that
// returned once the wait is over. Who bounds the time of an answer needs to know,
// since that wait says nothing of the origin.
//
// The calls come in turn, before the operation returns.
func WithQueueing(ctx context.Context, begin func() (done func())) context.Context {
	return context.WithValue(ctx, queueingKey{}, begin)
}

// Queueing is for an origin to call when a request begins to wait behind others.
// It calls done when the wait is over.
func Queueing(ctx context.Context) (done func()) {
	begin, ok := ctx.Value(queueingKey{}).(func() func())
	if !ok {
		return func() {}
	}
	return begin()
}
