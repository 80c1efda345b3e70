package auth

import (
	"context"
	"errors"
	"fmt"
	"testing"
)

// undecided is an authority that gives no answer but its error.
type undecided struct{ err error }

func (u undecided) Identify(context.Context, string) (Token, error) { return Token{}, u.err }
func (undecided) Any(right Rights) bool                             { return right == Read }

func TestAuthoritiesAreAskedInTurn(t *testing.T) {
	one := tokens(t, map[string]Token{"a": {"one", Upload}})
	two := tokens(t, map[string]Token{"a": {"late", Delete}, "b": {"two", Delete}})
	down := errors.New("unreachable")
	foreign := fmt.Errorf("foreign: %w", ErrUnknownCredential)
	expired := fmt.Errorf("expired: %w", ErrUnknownCredential)
	for _, test := range []struct {
		name      string
		asked     Authorities
		presented string
		want      string
		err       error
	}{
		{"nobody to ask", nil, "a", "", ErrUnknownCredential},
		{"the first that knows it", Authorities{one, two}, "a", "one", nil},
		{"the second knows it", Authorities{one, two}, "b", "two", nil},
		{"nobody knows it", Authorities{one, two}, "c", "", ErrUnknownCredential},
		{"one can't tell, another knows", Authorities{undecided{down}, two}, "b", "two", nil},
		{"one can't tell", Authorities{one, undecided{down}, two}, "c", "", down},
		{"unknown, and one has a reason", Authorities{one, undecided{expired}, undecided{foreign}}, "c", "", expired},
		{"unknown for a reason", Authorities{undecided{expired}, undecided{down}, two}, "c", "", down},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := test.asked.Identify(t.Context(), test.presented)
			if got.Name != test.want || !errors.Is(err, test.err) {
				t.Errorf("Identify = %q, %v; want %q, %v", got.Name, err, test.want, test.err)
			}
		})
	}
}

func TestAnyOfAuthorities(t *testing.T) {
	all := Authorities{tokens(t, map[string]Token{"a": {"one", Upload}}), undecided{}}
	if !all.Any(Upload) || !all.Any(Read) || all.Any(Delete) {
		t.Errorf("upload %v, read %v, delete %v; want the first two", all.Any(Upload), all.Any(Read), all.Any(Delete))
	}
}
