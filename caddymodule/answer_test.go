package caddymodule

import (
	"net/http/httptest"
	"testing"

	"github.com/stevedores-org/nix-cache/caddymodule/origin"
)

// TestContextHasTheClient: clients share the origin by their sites.
func TestContextHasTheClient(t *testing.T) {
	for address, want := range map[string]string{
		"192.0.2.7:1234":       "192.0.2.7/32",
		"[2001:db8:1:2::3]:80": "2001:db8:1::/48",
		"[2001:db8:1:4::5]:80": "2001:db8:1::/48", // another network of that site
		"[2001:db8:2:2::3]:80": "2001:db8:2::/48",
		"[::ffff:1.2.3.4]:80":  "1.2.3.4/32",
		"[fe80::1%eth0]:80":    "fe80::/48",
		"":                     "invalid Prefix",
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.RemoteAddr = address
		if got := origin.AskerOf((&answer{r: r}).context()).Client.String(); got != want {
			t.Errorf("the client at %q is %s, want %s", address, got, want)
		}
	}
}
