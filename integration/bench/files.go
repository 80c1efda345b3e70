package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"github.com/stevedores-org/nix-cache/caddymodule/nix"
)

// file is a file of the cache that is measured.
type file struct {
	path string // as in a URL, with the slash
	size int64
	disk string // where its bytes lie
}

// fileMaker makes files of bytes that nobody can compress, the same in each run.
type fileMaker struct {
	dir  string
	next uint64
}

// nar makes a NAR, as far as a cache can tell.
func (m *fileMaker) nar(size int64) (file, error) {
	temp, err := os.CreateTemp(m.dir, "new")
	if err != nil {
		return file{}, err
	}
	defer temp.Close()
	var seed [32]byte
	m.next++
	binary.LittleEndian.PutUint64(seed[:], m.next)
	hash := sha256.New()
	if _, err := io.CopyN(io.MultiWriter(temp, hash), rand.NewChaCha8(seed), size); err != nil {
		return file{}, err
	}
	f := file{path: "/nar/" + nix.EncodeBase32(hash.Sum(nil)) + ".nar.xz", size: size}
	f.disk = filepath.Join(m.dir, f.path)
	if err := os.MkdirAll(filepath.Dir(f.disk), 0o755); err != nil {
		return file{}, err
	}
	if err := os.Chmod(temp.Name(), 0o644); err != nil {
		return file{}, err
	}
	return f, os.Rename(temp.Name(), f.disk)
}

// narinfo makes a narinfo of the usual size.
func (m *fileMaker) narinfo() (file, error) {
	m.next++
	hash := fmt.Sprintf("%032d", m.next)
	text := narinfoText(hash)
	f := file{path: "/" + hash + ".narinfo", size: int64(len(text)), disk: filepath.Join(m.dir, hash+".narinfo")}
	return f, os.WriteFile(f.disk, []byte(text), 0o644)
}

func narinfoText(hash string) string {
	nar := fmt.Sprintf("%052d", 0)
	text := "StorePath: /nix/store/" + hash + "-hello-2.12.1\n" +
		"URL: nar/" + nar + ".nar.xz\nCompression: xz\n" +
		"FileHash: sha256:" + nar + "\nFileSize: 50264\n" +
		"NarHash: sha256:" + nar + "\nNarSize: 226560\nReferences:"
	for i := range 8 {
		text += fmt.Sprintf(" %032d-dependency-%d.0", i, i)
	}
	return text + "\nDeriver: " + hash + "-hello-2.12.1.drv\n" +
		"Sig: cache.example.org-1:" + fmt.Sprintf("%086d", 0) + "==\n"
}

// plainNAR makes a NAR that is not compressed, as its name says.
func (m *fileMaker) plainNAR(size int64) (file, error) {
	f, err := m.nar(size)
	if err != nil {
		return f, err
	}
	f.path = strings.TrimSuffix(f.path, ".xz")
	old := f.disk
	f.disk = filepath.Join(m.dir, f.path)
	return f, os.Rename(old, f.disk)
}

// compressed makes a NAR of some content, with the compression of a suffix.
func (m *fileMaker) compressed(content []byte, suffix string) (file, error) {
	var out bytes.Buffer
	var err error
	switch suffix {
	case "":
		out.Write(content)
	case ".zst":
		err = compressTo(&out, content, func(w io.Writer) (io.WriteCloser, error) { return zstd.NewWriter(w) })
	case ".xz":
		err = compressTo(&out, content, func(w io.Writer) (io.WriteCloser, error) { return xz.NewWriter(w) })
	}
	if err != nil {
		return file{}, err
	}
	sum := sha256.Sum256(out.Bytes())
	f := file{path: "/nar/" + nix.EncodeBase32(sum[:]) + ".nar" + suffix, size: int64(out.Len())}
	f.disk = filepath.Join(m.dir, f.path)
	return f, os.WriteFile(f.disk, out.Bytes(), 0o644)
}

func compressTo(w io.Writer, content []byte, open func(io.Writer) (io.WriteCloser, error)) error {
	z, err := open(w)
	if err != nil {
		return err
	}
	if _, err := z.Write(content); err != nil {
		return err
	}
	return z.Close()
}
