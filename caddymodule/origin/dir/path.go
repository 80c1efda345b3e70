package dir

import (
	"io/fs"
	"strings"
)

const staging = ".staging"

// objectPath tells whether an object can be at path: it is inside of the
// directory and not in the staging folder.
func objectPath(path string) bool {
	first, _, _ := strings.Cut(path, "/")
	return fs.ValidPath(path) && path != "." && first != staging
}
