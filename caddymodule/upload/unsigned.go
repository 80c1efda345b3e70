package upload

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"strings"
	"unicode"

	"github.com/stevedores-org/nix-cache/caddymodule/nix"
	"github.com/stevedores-org/nix-cache/caddymodule/origin"
)

// Limits, in bytes. A file in a listing takes about 80, so there is room for the
// 800,000 of a very large source tree; Nix writes a few hundred for the others.
const (
	maxListing = 64 << 20
	maxLog     = 64 << 20
	maxRecord  = 64 << 10
)

// unsigned says what is known of a kind of file that no key has to sign: it may
// be replaced by a later upload, so what it leads clients to is all that can be
// checked.
type unsigned struct {
	contentType string                             // stored with the object, for whoever reads the bucket
	max         int64                              // bytes
	check       func(nix.CachePath, members) error // of a JSON object; nil: any bytes are right
}

var unsignedKinds = map[nix.Kind]unsigned{
	nix.KindListing:     {"application/json", maxListing, checkListing},
	nix.KindLog:         {"text/plain; charset=utf-8", maxLog, nil},
	nix.KindRealisation: {"application/json", maxRecord, checkRealisation},
	nix.KindBuildTrace:  {"application/json", maxRecord, checkBuildTrace},
	nix.KindDebugInfo:   {"application/json", maxRecord, checkDebugInfo},
}

// receiveUnsigned writes a file while it is checked, decoded, and holds no more
// of it than the origin's writer does. It takes the place of the one before.
func (r *Receiver) receiveUnsigned(ctx context.Context, path nix.CachePath, body Body) (Outcome, error) {
	kind := unsignedKinds[path.Kind()]
	decoded, err := decodeWithin(body, kind.max)
	if err != nil {
		return "", err
	}
	defer decoded.Close()
	staged, err := r.Origin.Create(ctx, path.String(), origin.CreateOptions{Size: -1, ContentType: kind.contentType})
	if err != nil {
		return "", err
	}
	defer staged.Abort()
	in := &staging{from: decoded, encoding: body.Encoding, max: kind.max, to: staged, sum: sha256.New()}
	if err := kind.read(path, in); err != nil {
		return "", err
	}
	if r.holds(ctx, path, in) {
		return Unchanged, nil
	}
	if err := staged.Commit(); err != nil {
		return "", err
	}
	return Stored, nil
}

// read reads all of a file, and checks it on the way.
func (k unsigned) read(path nix.CachePath, in *staging) error {
	if k.check == nil {
		_, err := io.CopyBuffer(io.Discard, struct{ io.Reader }{in}, make([]byte, copyBuffer))
		return err
	}
	object, err := readObject(in)
	if in.err != nil {
		return in.err
	}
	if err == nil {
		err = k.check(path, object)
	}
	if err != nil {
		return reject(Malformed, "not the JSON of a %s: %v", path.Kind(), err)
	}
	return nil
}

// holds reports whether the origin has the same bytes at path. If it can't tell,
// writing them again does no harm.
func (r *Receiver) holds(ctx context.Context, path nix.CachePath, in *staging) bool {
	info, body, err := r.Origin.Open(ctx, path.String(), origin.OpenOptions{})
	if err != nil {
		return false
	}
	defer body.Close()
	if info.Size != in.size {
		return false
	}
	sum := sha256.New()
	n, err := io.Copy(sum, body)
	return err == nil && n == in.size && nix.SHA256(sum.Sum(nil)) == nix.SHA256(in.sum.Sum(nil))
}

// staging reads a client's file and writes what it reads to the origin. It
// keeps what goes wrong with either, which is not the file's fault.
type staging struct {
	from     io.Reader
	encoding string
	max      int64
	to       io.Writer
	sum      hash.Hash
	size     int64
	err      error
}

func (s *staging) Read(p []byte) (int, error) {
	n, err := s.from.Read(p)
	s.size += int64(n)
	s.sum.Write(p[:n])
	switch {
	case s.size > s.max:
		s.err = tooLarge(s.max)
	case err != nil && err != io.EOF:
		s.err = undecodable(s.encoding, err)
	default:
		_, s.err = s.to.Write(p[:n])
	}
	if s.err != nil {
		return 0, s.err
	}
	return n, err
}

func checkListing(_ nix.CachePath, m members) error {
	if m["version"] != json.Number("1") {
		return errors.New(`expected "version": 1`)
	}
	if m["root"] != json.Delim('{') {
		return errors.New(`expected an object as "root"`)
	}
	return nil
}

// checkRealisation takes what Nix writes: before 2.35 with an id, which is in
// the path too, and dependentRealisations.
func checkRealisation(path nix.CachePath, m members) error {
	outPath, _ := m["outPath"].(string)
	if _, err := nix.ParseStorePathBase(outPath); err != nil {
		return fmt.Errorf("outPath: %w", err)
	}
	if id, there := m["id"]; there && id != path.Name() {
		return errors.New("expected the id that is in its path")
	}
	return nil
}

// checkBuildTrace takes what Nix 2.35 writes, and the form that its manual
// describes, a key and a value (nix.dev/manual/nix/2.36/protocols/json/build-trace-entry).
func checkBuildTrace(path nix.CachePath, m members) error {
	if m["key"] == json.Delim('{') && m["value"] == json.Delim('{') {
		return nil
	}
	return checkRealisation(path, m)
}

// checkDebugInfo keeps debuggers on the NARs of this cache, and in them.
func checkDebugInfo(_ nix.CachePath, m members) error {
	archive, _ := m["archive"].(string)
	nar, up := strings.CutPrefix(archive, "../")
	path, err := nix.ParseCachePath(nar)
	if !up || err != nil || path.Kind() != nix.KindNAR {
		return fmt.Errorf("expected the path of a NAR as ../nar/….nar in archive, got %.100q", archive)
	}
	member, _ := m["member"].(string)
	if !fs.ValidPath(member) || member == "." || strings.ContainsFunc(member, unicode.IsControl) {
		return fmt.Errorf("expected a relative path in member, got %.100q", member)
	}
	return nil
}
