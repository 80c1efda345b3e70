package upload

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"
)

const (
	maxNesting = 1000     // of objects and arrays; a listing has two for each level of directories
	maxMembers = 64       // of the outermost object
	maxToken   = 64 << 10 // bytes of a string or number, as it is written
)

// members are those of a JSON object: a string, a json.Number, true, false or
// nil, and of an object or array the json.Delim it begins with.
type members map[string]json.Token

// readObject reads a text that is one JSON object (RFC 8259), token by token, so
// that a large one takes little memory. The names of its own members are unique;
// those further in are not looked at.
func readObject(in io.Reader) (members, error) {
	dec := json.NewDecoder(&jsonText{in: in})
	dec.UseNumber()
	if begin, err := next(dec); err != nil {
		return nil, err
	} else if begin != json.Delim('{') {
		return nil, errors.New("expected an object")
	}
	m := members{}
	for dec.More() {
		if err := m.read(dec); err != nil {
			return nil, err
		}
	}
	if _, err := next(dec); err != nil {
		return nil, err
	}
	switch _, err := dec.Token(); err {
	case io.EOF:
		return m, nil
	case nil:
		return nil, errors.New("expected nothing after the object")
	default:
		return nil, err
	}
}

// read adds the next member.
func (m members) read(dec *json.Decoder) error {
	token, err := next(dec)
	if err != nil {
		return err
	}
	name := token.(string) // or the decoder would have refused it
	if _, twice := m[name]; twice {
		return fmt.Errorf("%.40q is there twice", name)
	}
	if len(m) == maxMembers {
		return fmt.Errorf("expected no more than %d members", maxMembers)
	}
	if m[name], err = next(dec); err != nil {
		return err
	}
	return skipRest(dec, m[name])
}

// skipRest skips what is left of the value that begins with token.
func skipRest(dec *json.Decoder, token json.Token) (err error) {
	for depth := 0; ; {
		switch token {
		case json.Delim('{'), json.Delim('['):
			depth++
		case json.Delim('}'), json.Delim(']'):
			depth--
		}
		switch {
		case depth == 0:
			return nil
		case depth >= maxNesting:
			return fmt.Errorf("nested more than %d deep", maxNesting)
		}
		if token, err = next(dec); err != nil {
			return err
		}
	}
}

// next returns the next token, where there has to be one.
func next(dec *json.Decoder) (json.Token, error) {
	token, err := dec.Token()
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return token, err
}

// jsonText holds a JSON text to what the decoder leaves open: that it is UTF-8,
// and has no token so long that gathering it would take much memory.
type jsonText struct {
	in      io.Reader
	rest    []byte // of a character whose other bytes are still to come
	token   int    // bytes since the last one that ends a token
	quoted  bool   // inside a string
	escaped bool   // after a backslash there
}

func (t *jsonText) Read(p []byte) (int, error) {
	n, err := t.in.Read(p)
	for _, c := range p[:n] {
		t.pass(c)
		if t.token > maxToken {
			return 0, fmt.Errorf("expected no string or number of more than %d bytes", maxToken)
		}
	}
	if !t.isUTF8(p[:n]) {
		return 0, errors.New("expected UTF-8")
	}
	return n, err
}

// pass counts a byte. White space counts too: the decoder gathers it.
func (t *jsonText) pass(c byte) {
	t.token++
	switch {
	case t.escaped:
		t.escaped = false
	case c == '\\':
		t.escaped = t.quoted
	case c == '"':
		t.quoted = !t.quoted
		t.token = 0
	case !t.quoted && (c == ',' || c == ':' || c == '{' || c == '}' || c == '[' || c == ']'):
		t.token = 0
	}
}

func (t *jsonText) isUTF8(p []byte) bool {
	if len(t.rest) == 0 && utf8.Valid(p) {
		return true
	}
	text := append(t.rest, p...)
	for len(text) > 0 {
		r, size := utf8.DecodeRune(text)
		if r == utf8.RuneError && size == 1 {
			break
		}
		text = text[size:]
	}
	t.rest = append(t.rest[:0], text...)
	return !utf8.FullRune(t.rest) || len(t.rest) == 0
}
