package caddymodule

import (
	"strings"
	"testing"

	"github.com/stevedores-org/nix-cache/caddymodule/nix"
	"github.com/stevedores-org/nix-cache/caddymodule/origin/limit"
)

// TestReadsOf: no small file that a build needs waits behind NARs, and nothing that
// no build needs waits as long as they do.
func TestReadsOf(t *testing.T) {
	hash, drv := strings.Repeat("0", 32), strings.Repeat("0", 32)+"-a.drv"
	type reads struct {
		class limit.Class
		hasty bool
	}
	tests := map[nix.Kind]struct {
		path string
		want reads
	}{
		nix.KindNARInfo:     {hash + ".narinfo", reads{limit.Small, false}},
		nix.KindNAR:         {"nar/" + strings.Repeat("0", 52) + ".nar.xz", reads{limit.Large, false}},
		nix.KindListing:     {hash + ".ls", reads{limit.Large, true}},
		nix.KindLog:         {"log/" + drv, reads{limit.Large, true}},
		nix.KindRealisation: {"realisations/sha256:" + strings.Repeat("0", 64) + "!out.doi", reads{limit.Small, false}},
		nix.KindBuildTrace:  {"build-trace-v2/" + drv + "/out.doi", reads{limit.Small, false}},
		nix.KindDebugInfo:   {"debuginfo/" + strings.Repeat("0", 40) + ".debug", reads{limit.Small, false}},
	}
	for kind := range nix.Kinds() {
		tt := tests[kind]
		if p, err := nix.ParseCachePath(tt.path); err != nil || p.Kind() != kind {
			t.Fatalf("%q is no %v: %v", tt.path, kind, err)
		}
		if class, hasty := readsOf(tt.path); (reads{class, hasty}) != tt.want {
			t.Errorf("%v: class %d, hasty %v; want %v", kind, class, hasty, tt.want)
		}
	}
}
