package caddymodule

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	_ "github.com/caddyserver/caddy/v2/modules/logging" // logs in files
)

// TestCurrentLog: an error is one line of what it was given, in the log of the
// config in force.
func TestCurrentLog(t *testing.T) {
	newDataDir(t)
	file := filepath.Join(t.TempDir(), "log")
	writer := fmt.Sprintf(`"level": "ERROR", "writer": {"output": "file", "filename": %q}`, file)
	loaded(t, []byte(strings.Replace(string(server()), `"level": "PANIC"`, writer, 1)))
	slog.New(currentLog{}).With("cache", "c").Error("disk failed", "error", os.ErrClosed)
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var line map[string]any
	if err := json.Unmarshal(text, &line); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	delete(line, "ts")
	want := map[string]any{"level": "error", "logger": directive, "msg": "disk failed", "cache": "c", "error": os.ErrClosed.Error()}
	if fmt.Sprint(line) != fmt.Sprint(want) {
		t.Errorf("logged %v, want %v", line, want)
	}
}
