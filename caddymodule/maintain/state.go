package maintain

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/stevedores-org/nix-cache/caddymodule/nix"
)

// State is how far a run of a Signer has come.
type State struct {
	Origin string          `json:"origin"` // its String
	Keys   []string        `json:"keys"`   // their public halves
	After  string          `json:"after"`  // all up to this path are done
	Counts map[Outcome]int `json:"counts"`
}

// NewState returns the state of a run that has not begun.
func (s *Signer) NewState() State {
	state := State{Origin: s.Origin.String(), Counts: make(map[Outcome]int)}
	for _, k := range s.Keys {
		state.Keys = append(state.Keys, k.PublicKey().String())
	}
	slices.Sort(state.Keys)
	return state
}

// ReadState returns what an earlier run left in a file, or NewState if there is
// no such file. The state of another origin or other keys is an error.
func (s *Signer) ReadState(file string) (State, error) {
	state := s.NewState()
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return state, nil
	}
	if err != nil {
		return state, fmt.Errorf("read state: %w", err)
	}
	var old State
	if err := json.Unmarshal(text, &old); err != nil {
		return state, fmt.Errorf("read state %s: %w", file, err)
	}
	if _, err := nix.ParseCachePath(old.After); err != nil || old.Counts == nil {
		return state, fmt.Errorf("read state %s: it is none; remove it to begin anew", file)
	}
	if old.Origin != state.Origin || !slices.Equal(old.Keys, state.Keys) {
		return state, fmt.Errorf("read state %s: it is of another cache or of other keys; remove it to begin anew", file)
	}
	return old, nil
}

// Add notes what came of the next narinfo.
func (s *State) Add(signing Signing) {
	s.After = signing.Path.String()
	s.Counts[signing.Outcome]++
}

// Write replaces the file in one step.
func (s *State) Write(file string) error {
	text, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("write state %s: %w", file, err)
	}
	temp, err := os.CreateTemp(filepath.Dir(file), filepath.Base(file)+".*")
	if err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	defer os.Remove(temp.Name())
	_, err = temp.Write(append(text, '\n'))
	if err = errors.Join(err, temp.Close()); err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	if err := os.Rename(temp.Name(), file); err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	return nil
}
