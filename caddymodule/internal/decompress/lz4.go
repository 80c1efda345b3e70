package decompress

import (
	"encoding/binary"
	"errors"
	"io"

	"github.com/pierrec/lz4/v4"
)

func decodeLZ4(in io.Reader) (io.ReadCloser, error) { return plain(lz4.NewReader(newLZ4Walker(in))) }

var (
	errLZ4Magic  = errors.New("lz4: no frame at the beginning")
	errLZ4Header = errors.New("lz4: a frame of an unknown version, with a dictionary or with blocks that depend on each other")
	errLZ4Block  = errors.New("lz4: an empty block")
	errLZ4Empty  = errors.New("lz4: an empty frame")
	errLZ4After  = errors.New("lz4: something after the frame")
)

// lz4Walker follows an LZ4 file
// (https://github.com/lz4/lz4/blob/dev/doc/lz4_Frame_format.md) and takes what
// encoders write: one frame of blocks that are independent, up to its end mark.
// The decoder takes much more, which libarchive, and so Nix, can't read: it aborts
// at a frame without blocks and at one that is to be skipped, makes something else
// of small blocks that depend on the one before, takes an empty block for the end of
// the file, and knows neither unknown flags nor a file without a mark at its end.
type lz4Walker struct {
	walker
	flags byte
	some  bool // there was a block
	ended bool // the frame
}

func newLZ4Walker(in io.Reader) *lz4Walker {
	w := &lz4Walker{walker: walker{in: in}}
	w.end = w.atEnd
	w.then(0, 4, w.magic)
	return w
}

func (w *lz4Walker) atEnd() error {
	if w.ended && w.between() {
		return io.EOF
	}
	return io.ErrUnexpectedEOF
}

func (w *lz4Walker) magic(field []byte) error {
	if binary.LittleEndian.Uint32(field) != 0x184d2204 {
		return errLZ4Magic
	}
	w.then(0, 2, w.header)
	return nil
}

// What a frame's flags tell.
const (
	lz4Independent     = 1 << 5
	lz4BlockChecksums  = 1 << 4
	lz4ContentSize     = 1 << 3
	lz4ContentChecksum = 1 << 2

	lz4Version     = 0b11 << 6
	lz4Version1    = 0b01 << 6
	lz4Unsupported = 0b11 // a bit to come, and that of a dictionary
)

// header reads flags and block size. The decoder compares the checksum.
func (w *lz4Walker) header(field []byte) error {
	const otherBits = 0x8f // than the block size
	w.flags = field[0]
	if w.flags&(lz4Version|lz4Independent|lz4Unsupported) != lz4Version1|lz4Independent || field[1]&otherBits != 0 {
		return errLZ4Header
	}
	const checksum = 1
	w.nextBlock(checksum + w.ifFlag(lz4ContentSize, 8))
	return nil
}

// ifFlag is so many bytes if the frame has the flag.
func (w *lz4Walker) ifFlag(flag byte, size int64) int64 {
	if w.flags&flag != 0 {
		return size
	}
	return 0
}

func (w *lz4Walker) nextBlock(skip int64) { w.then(skip, 4, w.block) }

// block reads a block's size, or the end mark.
func (w *lz4Walker) block(field []byte) error {
	const stored = 1 << 31 // not compressed
	word := binary.LittleEndian.Uint32(field)
	switch size := word &^ stored; {
	case word == 0 && !w.some:
		return errLZ4Empty
	case word == 0:
		w.ended = true
		w.then(w.ifFlag(lz4ContentChecksum, 4), 1, func([]byte) error { return errLZ4After })
	case word == stored, word == 1: // 1 byte is a token that has nothing follow
		return errLZ4Block
	default:
		w.some = true
		w.nextBlock(int64(size) + w.ifFlag(lz4BlockChecksums, 4))
	}
	return nil
}
