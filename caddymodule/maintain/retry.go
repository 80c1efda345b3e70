package maintain

import (
	"context"
	"errors"
	"time"

	"github.com/stevedores-org/nix-cache/caddymodule/origin"
)

// An origin that does not answer is asked again, with pauses that double: a long
// run should outlive a moment's trouble, and not go on through an outage.
const (
	attempts   = 5
	firstPause = time.Second
)

// retry calls do again as long as the origin is unavailable, a few times.
func retry(ctx context.Context, do func() error) error {
	pause := firstPause
	for attempt := 1; ; attempt++ {
		err := do()
		if _, unavailable := errors.AsType[*origin.UnavailableError](err); !unavailable || attempt == attempts {
			return err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		}
		pause *= 2
	}
}
