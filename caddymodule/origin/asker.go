package origin

import (
	"context"
	"errors"
	"net/netip"
)

// Asker says on whose behalf an operation is, for a layer that makes operations
// wait for others.
type Asker struct {
	// Client is the network, such as a site's, that counts as one client. Clients have their turns
	// one after the other, however much each asks for. The zero value stands for
	// all whose address is not known.
	Client netip.Prefix

	// Gone, if not nil, is closed when nobody wants the answer any more. An
	// operation that waits ends with ErrUnwanted then; one that does not, or no
	// longer, goes on.
	Gone <-chan struct{}

	// Joined, if not nil, tells of other clients that want the answer, too. An
	// operation that waits has their turn then, if that comes sooner.
	Joined <-chan netip.Prefix
}

// ErrUnwanted says that the origin was not asked, since nobody wanted the answer
// any more.
var ErrUnwanted = errors.New("not asked, since nobody waits for the answer any more")

type askerKey struct{}

// AskerKey is the key of a context's Asker, for contexts that make one when they
// are asked for it.
var AskerKey any = askerKey{}

// WithAsker returns a context for operations on behalf of a.
func WithAsker(ctx context.Context, a Asker) context.Context {
	return context.WithValue(ctx, askerKey{}, a)
}

// AskerOf returns on whose behalf an operation under the context is.
func AskerOf(ctx context.Context) Asker {
	a, _ := ctx.Value(askerKey{}).(Asker)
	return a
}
