package upload

import (
	"context"
	"crypto/sha256"
	"errors"
	"hash"
	"io"
	"io/fs"

	"github.com/stevedores-org/nix-cache/caddymodule/nix"
	"github.com/stevedores-org/nix-cache/caddymodule/origin"
)

// narContentType is stored with the object, for whoever reads the bucket.
const narContentType = "application/x-nix-nar"

func (r *Receiver) receiveNAR(ctx context.Context, path nix.CachePath, body Body) (Outcome, error) {
	if body.Encoding != "" && body.Encoding != "identity" {
		return "", reject(Malformed, "Content-Encoding %.40q: a NAR is uploaded as it is; its compression is told by its name", body.Encoding)
	}
	if body.Size > r.MaxSize {
		return "", r.tooLarge()
	}
	if err := r.Compressions.require(compressionsOf(path)...); err != nil {
		return "", err
	}
	present, err := r.Origin.Stat(ctx, path.String())
	if errors.Is(err, fs.ErrNotExist) {
		present.Size = -1
	} else if err != nil {
		return "", err
	}
	if r.Damaged != nil && r.Damaged(path) { // so this one takes its place
		present.Size = -1
	}
	inside := measureWhile(ctx, io.LimitReader(clientReader{body}, r.MaxSize+1), path)
	outcome, err := r.takeNAR(ctx, path, &measured{r: inside, sum: sha256.New()}, body.Size, present.Size)
	if c, ok := inside.end(); ok && err == nil {
		r.contents.add(path, c)
	}
	return outcome, err
}

func (r *Receiver) takeNAR(ctx context.Context, path nix.CachePath, in *measured, size, present int64) (Outcome, error) {
	if size >= 0 && size == present {
		return r.compareNAR(path, in)
	}
	return r.storeNAR(ctx, path, in, size, present)
}

// compareNAR reads a NAR that is there already, so that a wrong body is told
// to be wrong whether it is there or not.
func (r *Receiver) compareNAR(path nix.CachePath, in *measured) (Outcome, error) {
	if _, err := io.Copy(io.Discard, in); err != nil {
		return "", err
	}
	if err := r.checkNAR(path, in); err != nil {
		return "", err
	}
	return Unchanged, nil
}

// storeNAR writes a NAR of the size that was announced. If one of the size it
// turns out to have is there already, that one stays; -1: none is there.
func (r *Receiver) storeNAR(ctx context.Context, path nix.CachePath, in *measured, size, present int64) (Outcome, error) {
	staged, err := r.Origin.Create(ctx, path.String(), origin.CreateOptions{Size: size, ContentType: narContentType})
	if err != nil {
		return "", err
	}
	defer staged.Abort()
	if err := copyStaged(staged, in); err != nil {
		return "", err
	}
	if err := r.checkNAR(path, in); err != nil {
		return "", err
	}
	if in.size == present {
		return Unchanged, nil
	}
	return r.commitNAR(path, staged)
}

// commitNAR makes a NAR visible. Of those that are ready at one time, as when
// several clients push one closure, one does: they are the same bytes, and R2
// takes one write a second to a key.
func (r *Receiver) commitNAR(path nix.CachePath, staged origin.Staged) (Outcome, error) {
	const rounds = 3 // of which others lead some, whose clients may leave
	for round := 1; ; round++ {
		outcome := Unchanged
		_, err, _ := r.commits.Do(path.String(), func() (any, error) {
			outcome = Stored
			return nil, staged.Commit()
		})
		if err == nil {
			return outcome, nil
		}
		if outcome == Stored || round == rounds {
			return "", err
		}
	}
}

func (r *Receiver) checkNAR(path nix.CachePath, in *measured) error {
	if in.size > r.MaxSize {
		return r.tooLarge()
	}
	if got := nix.SHA256(in.sum.Sum(nil)); got != path.FileHash() {
		return reject(Mismatch, "the body's SHA-256 is %s, not the one it is named after; nothing was stored", got)
	}
	return nil
}

func (r *Receiver) tooLarge() error {
	return reject(TooLarge, "larger than the %d bytes that this cache takes", r.MaxSize)
}

const copyBuffer = 256 << 10

func copyStaged(staged origin.Staged, in *measured) error {
	// Hide everything but Read and Write: what is in between must see the bytes.
	_, err := io.CopyBuffer(struct{ io.Writer }{staged}, struct{ io.Reader }{in}, make([]byte, copyBuffer))
	return err
}

// measured counts and hashes what is read through it.
type measured struct {
	r    io.Reader
	sum  hash.Hash
	size int64
}

func (m *measured) Read(p []byte) (int, error) {
	n, err := m.r.Read(p)
	m.sum.Write(p[:n])
	m.size += int64(n)
	return n, err
}
