package nix_test

import (
	"testing"

	zombie "zombiezen.com/go/nix"

	"github.com/stevedores-org/nix-cache/caddymodule/nix"
)

func TestParseCompression(t *testing.T) {
	for name, want := range map[string]nix.Compression{
		"none": nix.CompressionNone, "xz": nix.CompressionXZ, "zstd": nix.CompressionZstd, "bzip2": nix.CompressionBzip2,
		"br": nix.CompressionBrotli, "gzip": nix.CompressionGzip, "lzip": nix.CompressionLzip, "lz4": nix.CompressionLZ4,
	} {
		got, err := nix.ParseCompression(name)
		if err != nil || got != want || got.String() != name {
			t.Errorf("ParseCompression(%q) = %v, %v, want %v", name, got, err, want)
		}
		if !zombie.CompressionType(name).IsKnown() {
			t.Errorf("zombiezen does not know %q", name)
		}
	}
	for _, name := range []string{"", "NONE", "xz ", "identity", "lzma", "compression(1)"} {
		if got, err := nix.ParseCompression(name); err == nil {
			t.Errorf("ParseCompression(%q) = %v, want an error", name, got)
		} else {
			checkErrorText(t, err)
		}
	}
}
