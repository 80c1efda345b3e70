package caddymodule

import (
	"bytes"
	"encoding/json"
	"net/http"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	"github.com/stevedores-org/nix-cache/caddymodule/nix"
)

// forgetter tells servers to forget files, many at a time.
type forgetter struct {
	cache    string
	servers  []string // addresses of admin endpoints that have answered so far
	required bool     // the operator named them
	missed   bool     // one of them was not told
	paths    []string
	note     func(format string, args ...any)
}

// newForgetter tells the servers at these addresses; if there are none, the one
// of the config, should it run, and with "off" nobody.
func newForgetter(cache *storedCache, addresses []string, note func(string, ...any)) *forgetter {
	f := &forgetter{cache: cache.name, note: note, required: len(addresses) > 0}
	for _, address := range addresses {
		if address != "off" {
			f.servers = append(f.servers, address)
		}
	}
	if !f.required {
		f.servers = []string{cache.admin}
	}
	return f
}

const forgetBatch = 500

func (f *forgetter) forget(path nix.CachePath) {
	f.paths = append(f.paths, path.String())
	if len(f.paths) == forgetBatch {
		f.flush()
	}
}

// flush tells what has come together. A server that does not answer is not asked
// again.
func (f *forgetter) flush() {
	if len(f.paths) == 0 {
		return
	}
	answering := f.servers[:0]
	for _, server := range f.servers {
		if err := f.tell(server); err != nil {
			f.missed = true
			f.note("the server at %s was not told to forget narinfos without the signature, if one runs there: %v", server, oneLine(err))
			continue
		}
		answering = append(answering, server)
	}
	f.servers = answering
	f.paths = f.paths[:0]
}

func (f *forgetter) tell(server string) error {
	body, err := json.Marshal(forgetRequest{Cache: f.cache, Paths: f.paths})
	if err != nil {
		return err
	}
	resp, err := caddycmd.AdminAPIRequest(server, http.MethodPost, forgetPath, nil, bytes.NewReader(body))
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// failed reports whether a server that the operator named was not told.
func (f *forgetter) failed() bool { return f.required && f.missed }
