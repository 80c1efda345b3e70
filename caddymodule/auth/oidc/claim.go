package oidc

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// Claim is what a token has to say: its claim of that name matches one of the
// patterns.
//
// In a pattern, * stands for any run of characters, also for none and also
// across "/" and ":". All others stand for themselves, upper and lower case
// told apart. Texts, numbers and true or false can match, and of an array one
// of its elements; a claim that is absent, null or an object does not.
type Claim struct {
	Name     string
	Patterns []string
}

func (c Claim) check() error {
	switch {
	case c.Name == "":
		return errors.New("a claim has no name")
	case len(c.Patterns) == 0:
		return fmt.Errorf("claim %s: expected patterns after the name", c.Name)
	}
	for _, p := range c.Patterns {
		if p == "" {
			return fmt.Errorf("claim %s: a pattern is empty", c.Name)
		}
	}
	return nil
}

// any reports whether every value matches.
func (c Claim) any() bool {
	for _, p := range c.Patterns {
		if strings.Trim(p, "*") == "" {
			return true
		}
	}
	return false
}

// begun reports whether every pattern says how a value begins, beyond the word
// that all values of the claim sub begin with.
func (c Claim) begun() bool {
	for _, p := range c.Patterns {
		literal, _, _ := strings.Cut(p, "*")
		if c.Name == "sub" {
			_, literal, _ = strings.Cut(literal, ":")
		}
		if literal == "" {
			return false
		}
	}
	return true
}

func (c Claim) matches(raw json.RawMessage) bool {
	for _, value := range texts(raw) {
		for _, p := range c.Patterns {
			if match(p, value) {
				return true
			}
		}
	}
	return false
}

// texts returns the values of a claim as text.
func texts(raw json.RawMessage) []string {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	var value any
	if err := dec.Decode(&value); err != nil {
		return nil
	}
	values, ok := value.([]any)
	if !ok {
		values = []any{value}
	}
	var found []string
	for _, v := range values {
		switch v.(type) {
		case string, json.Number, bool:
			found = append(found, fmt.Sprint(v))
		}
	}
	return found
}

// match reports whether the whole of s matches the pattern.
func match(pattern, s string) bool {
	first, rest, glob := strings.Cut(pattern, "*")
	if !glob {
		return s == pattern
	}
	s, ok := strings.CutPrefix(s, first)
	if !ok {
		return false
	}
	parts := strings.Split(rest, "*")
	last := len(parts) - 1
	for _, part := range parts[:last] { // the leftmost place leaves the most to the others
		_, s, ok = strings.Cut(s, part)
		if !ok {
			return false
		}
	}
	return strings.HasSuffix(s, parts[last])
}
