package decompress

import (
	"encoding/binary"
	"errors"
	"io"

	"github.com/klauspost/compress/zstd"
)

// zstdWithin decodes what asks for a window of at most so many bytes.
func zstdWithin(window uint32) decoder {
	return func(in io.Reader) (io.ReadCloser, error) {
		z, err := zstd.NewReader(newZstdWalker(in), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(uint64(window)))
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	}
}

var (
	errZstdEmpty   = errors.New("zstd: an empty file")
	errZstdPadding = errors.New("zstd: more bytes in frames to be skipped and empty blocks than encoders pad a file with")
)

// zstdWalker follows the frames of a zstd file (RFC 8878, section 3.1) for what
// there is in them for nothing: frames that are to be skipped, such as the one of 12
// bytes that pzstd writes before each of its own, and empty frames and blocks. Each
// frame may have as much, and all together maxPadding beside that. What is no frame
// is the decoder's to judge.
type zstdWalker struct {
	walker
	padding  int64
	frames   int64 // that had something in them
	frame    int64 // bytes of the frame's blocks
	checksum int64 // bytes of it
}

func newZstdWalker(in io.Reader) *zstdWalker {
	w := &zstdWalker{walker: walker{in: in}}
	w.end = w.atEnd
	w.nextFrame(0)
	return w
}

// atEnd has an empty file be an error, though the decoder takes it for nothing's
// encoding, and so it does io.ErrUnexpectedEOF.
func (w *zstdWalker) atEnd() error {
	if w.frames == 0 && w.padding == 0 && w.frame == 0 {
		return errZstdEmpty
	}
	return io.EOF
}

// pad counts bytes that bring nothing.
func (w *zstdWalker) pad(size int64) error {
	const ofFrame = 16
	if w.padding += size; w.padding > maxPadding+ofFrame*w.frames {
		return errZstdPadding
	}
	return nil
}

func (w *zstdWalker) nextFrame(skip int64) { w.then(skip, 4, w.magic) }

func (w *zstdWalker) magic(field []byte) error {
	switch magic := binary.LittleEndian.Uint32(field); {
	case magic == 0xfd2fb528:
		w.frame = 0
		w.then(0, 1, w.descriptor)
	case magic&^0xf == 0x184d2a50:
		w.then(0, 4, w.skippable)
	default:
		w.then(1<<62, 1, nil) // the decoder refuses it
	}
	return nil
}

// skippable reads the size of a frame for other programs.
func (w *zstdWalker) skippable(field []byte) error {
	const header = 8
	size := int64(binary.LittleEndian.Uint32(field))
	w.nextFrame(size)
	return w.pad(header + size)
}

// descriptor reads the first byte of a frame's header, which tells how much more
// of it there is.
func (w *zstdWalker) descriptor(field []byte) error {
	const (
		contentSize   = 6 // its two bits
		singleSegment = 1 << 5
		checksum      = 1 << 2
	)
	d := field[0]
	w.checksum = int64(d & checksum)    // of 4 bytes
	rest := [...]int64{0, 1, 2, 4}[d&3] // the dictionary's number
	rest += [...]int64{0, 2, 4, 8}[d>>contentSize]
	switch {
	case d&singleSegment == 0:
		rest++ // the window
	case d>>contentSize == 0:
		rest++ // a content size of one byte
	}
	w.nextBlock(rest)
	return nil
}

func (w *zstdWalker) nextBlock(skip int64) { w.then(skip, 3, w.block) }

func (w *zstdWalker) block(field []byte) error {
	header := uint32(field[0]) | uint32(field[1])<<8 | uint32(field[2])<<16
	last, kind, size := header&1 != 0, header>>1&3, int64(header>>3)
	w.frame += size
	err := w.padIfEmpty(size, int64(len(field)))
	if kind == 1 { // one byte, to be repeated
		size = 1
	}
	if !last {
		w.nextBlock(size)
		return err
	}
	w.nextFrame(size + w.checksum)
	if w.frame > 0 {
		w.frames++
	}
	if err == nil {
		const header = 18 // with the magic number, at most
		err = w.padIfEmpty(w.frame, header)
	}
	return err
}

// padIfEmpty counts what is around nothing.
func (w *zstdWalker) padIfEmpty(size, around int64) error {
	if size > 0 {
		return nil
	}
	return w.pad(around)
}
