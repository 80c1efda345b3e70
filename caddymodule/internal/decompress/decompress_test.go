package decompress

import (
	"strings"
	"testing"

	"github.com/stevedores-org/nix-cache/caddymodule/nix"
)

func TestEveryCompressionHasADecoder(t *testing.T) {
	c := nix.CompressionNone
	for ; !strings.HasPrefix(c.String(), "compression("); c++ {
		if decompressors[c] == nil {
			t.Errorf("none for %s", c)
		}
	}
	if _, err := NewReader(strings.NewReader(""), c); err == nil {
		t.Errorf("there is a decoder for %s", c)
	}
}
