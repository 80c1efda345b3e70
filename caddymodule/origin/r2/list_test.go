package r2_test

import (
	"fmt"
	"net/http"
	"slices"
	"testing"
	"testing/synctest"
)

func TestListPages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		config := valid()
		config.Prefix = "team"
		b := serve(t, config, func(w http.ResponseWriter, r *http.Request) {
			query := r.URL.Query()
			if query.Get("prefix") != "team/nar/" {
				t.Errorf("prefix %q", query.Get("prefix"))
			}
			entry := `<Contents><Key>team/nar/%s</Key><Size>5</Size><ETag>"e"</ETag></Contents>`
			if query.Get("continuation-token") == "" {
				fmt.Fprintf(w, `<ListBucketResult><IsTruncated>true</IsTruncated><NextContinuationToken>n</NextContinuationToken>`+entry+`</ListBucketResult>`, "1")
				return
			}
			fmt.Fprintf(w, `<ListBucketResult><IsTruncated>false</IsTruncated>`+entry+`</ListBucketResult>`, "2")
		})
		var paths []string
		for entry, err := range b.List(t.Context(), "nar/") {
			if err != nil || entry.Size != 5 || entry.ETag != `"e"` {
				t.Fatalf("entry %+v, %v", entry, err)
			}
			paths = append(paths, entry.Path)
		}
		if !slices.Equal(paths, []string{"nar/1", "nar/2"}) {
			t.Errorf("listed %q", paths)
		}
		if got := b.summary(); !slices.Equal(got, []string{"list a ok", "list a ok"}) {
			t.Errorf("operations %q", got)
		}
	})
}
