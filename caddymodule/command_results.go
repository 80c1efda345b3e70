package caddymodule

import (
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"
)

// format makes a line of standard output of a result: its text for people, or for
// programs a JSON object.
type format func(fmt.Stringer) string

func asText(result fmt.Stringer) string { return result.String() }

func asJSON(result fmt.Stringer) string {
	text, err := json.Marshal(result)
	if err != nil { // none of our results has what JSON has not
		panic(err)
	}
	return string(text)
}

// outputFlags choose the format.
type outputFlags struct{ json bool }

func (f *outputFlags) register(c *cobra.Command) {
	c.Flags().BoolVar(&f.json, "json", false, "write each result as a JSON object in a line of its own")
}

func (f *outputFlags) format() format {
	if f.json {
		return asJSON
	}
	return asText
}

const jsonHelp = `
With --json each line on standard output is an object: {"type", "path", "text"}
with a type of %s, and at last one of type "summary", whose "complete"
tells whether the command came to its end.
`

// finding is what a command has to say of a file.
type finding struct {
	Type string `json:"type"` // "problem", "note" or "refused"
	Path string `json:"path"`
	Text string `json:"text"`
}

func (f finding) String() string {
	if f.Type == "note" {
		return "note: " + f.Path + ": " + f.Text
	}
	return f.Path + ": " + f.Text
}

// quantity is a number of things, such as "1 narinfo" and "2 narinfos".
func quantity(n int, thing string) string {
	if n != 1 {
		thing += "s"
	}
	return fmt.Sprintf("%d %s", n, thing)
}
