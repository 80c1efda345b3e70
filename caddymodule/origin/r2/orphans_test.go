package r2_test

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stevedores-org/nix-cache/caddymodule/origin/r2"
)

// TestAbortOrphans: what is old by the server's clock, below the prefix and
// ours, and nothing else.
func TestAbortOrphans(t *testing.T) {
	const day = 24 * time.Hour
	uploads := []struct {
		key    string
		age    time.Duration
		orphan bool
	}{
		{"team/nar/old.nar", day, true},
		{"team/nar/older.nar", 6 * day, true},
		{"team/nar/young.nar", day - time.Second, false},
		{"team/backup.tar", 6 * day, false},
		{"other/nar/old.nar", 6 * day, false}, // though the prefix was asked for
	}
	synctest.Test(t, func(t *testing.T) {
		config := valid()
		config.Prefix = "team"
		serverTime := time.Now().Add(40 * day) // ours is wrong
		var aborted []string
		b := serve(t, config, func(w http.ResponseWriter, r *http.Request) {
			query := r.URL.Query()
			w.Header().Set("Date", serverTime.UTC().Format(http.TimeFormat))
			if r.Method == http.MethodDelete {
				aborted = append(aborted, strings.TrimPrefix(r.URL.Path, "/cache/")+" "+query.Get("uploadId"))
				w.WriteHeader(http.StatusNoContent)
				return
			}
			if query.Get("prefix") != "team/" {
				t.Errorf("prefix %q", query.Get("prefix"))
			}
			page, rest := uploads[:2], uploads[2:]
			if query.Get("key-marker") == "next" {
				page, rest = rest, nil
			}
			fmt.Fprintf(w, "<ListMultipartUploadsResult><IsTruncated>%v</IsTruncated><NextKeyMarker>next</NextKeyMarker><NextUploadIdMarker>id</NextUploadIdMarker>", rest != nil)
			for _, u := range page {
				fmt.Fprintf(w, "<Upload><Key>%s</Key><UploadId>id</UploadId><Initiated>%s</Initiated></Upload>",
					u.key, serverTime.Add(-u.age).UTC().Format(time.RFC3339))
			}
			io.WriteString(w, "</ListMultipartUploadsResult>")
		})
		n, err := b.AbortOrphans(t.Context(), r2.Orphans{OlderThan: day, Ours: func(path string) bool {
			return strings.HasSuffix(path, ".nar")
		}})
		var want []string
		for _, u := range uploads {
			if u.orphan {
				want = append(want, u.key+" id")
			}
		}
		if err != nil || n != len(want) || !slices.Equal(aborted, want) {
			t.Errorf("aborted %q: %d, %v; want %q", aborted, n, err, want)
		}
		if got := b.summary(); !slices.Equal(got, []string{"list-multipart a ok", "abort free ok", "abort free ok", "list-multipart a ok"}) {
			t.Errorf("operations %q", got)
		}
	})
}

// TestAbortOrphansRefused: credentials that may not list are an error to log.
func TestAbortOrphansRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := serve(t, valid(), func(w http.ResponseWriter, r *http.Request) { fail(w, 403, "AccessDenied") })
		n, err := b.AbortOrphans(t.Context(), r2.Orphans{})
		if n != 0 || kind(err) != "other" {
			t.Errorf("aborted %d, %v", n, err)
		}
		wantOneLine(t, err)
	})
}

// TestAbortOrphansIsBounded: a server that always has another page ends nothing
// but this run.
func TestAbortOrphansIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pages := 0
		b := serve(t, valid(), func(w http.ResponseWriter, r *http.Request) {
			pages++
			fmt.Fprintf(w, "<ListMultipartUploadsResult><IsTruncated>true</IsTruncated><NextKeyMarker>%d</NextKeyMarker><NextUploadIdMarker>id</NextUploadIdMarker></ListMultipartUploadsResult>", pages)
		})
		if n, err := b.AbortOrphans(t.Context(), r2.Orphans{}); n != 0 || err != nil || pages > 100 {
			t.Errorf("aborted %d on %d pages, %v", n, pages, err)
		}
	})
}
