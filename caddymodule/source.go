package caddymodule

import (
	"fmt"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// Source says where the settings stand in a Caddyfile, as file:line by setting.
// A setting that can be repeated is in it with its first word, too, and one of a
// block after the block's name and a colon:
//
//	memory → Caddyfile:4
//	origin r2: bucket → Caddyfile:6
//	trusted_public_key {env.KEYS} → Caddyfile:9
type Source map[string]string

// note enters the setting at which the dispenser is.
func (s Source) note(block string, d *caddyfile.Dispenser) {
	at := fmt.Sprintf("%s:%d", d.File(), d.Line())
	setting := block + d.Val()
	s.add(setting, at)
	rest := *d // d itself goes on to the words later
	for _, word := range rest.RemainingArgs() {
		switch d.Val() {
		case "token", "oidc", "claim":
			s.add(setting+" "+word, at)
			return // what follows may be a secret
		case "trusted_public_key", "sign_with":
			s.add(setting+" "+word, at)
		}
	}
}

// add keeps the first of several.
func (s Source) add(setting, at string) {
	if _, known := s[setting]; !known {
		s[setting] = at
	}
}

// of returns where a setting stands: itself, or else the block or the directive it
// is in. "" if the config is not from a Caddyfile.
func (s Source) of(setting string) string {
	for {
		if at, known := s[setting]; known {
			return at
		}
		end := strings.LastIndexAny(setting, " :")
		if end < 0 {
			return s[directive]
		}
		setting = setting[:end]
	}
}

// locate adds to an error of a setting where that stands, in the words of
// Caddy's own errors.
func (s Source) locate(setting string, err error) error {
	if at := s.of(setting); at != "" && err != nil {
		return fmt.Errorf("%w, at %s", err, at)
	}
	return err
}
