package decompress

import (
	"encoding/binary"
	"errors"
	"io"

	"github.com/pierrec/lz4/v4"
)

func decodeLZ4(in io.Reader) (io.ReadCloser, error) { return plain(lz4.NewReader(newLZ4Walker(in))) }

var (
	errLZ4Magic  = errors.New("lz4: no frame where one should begin")
	errLZ4Header = errors.New("lz4: a frame of an unknown version, or with a dictionary")
	errLZ4Block  = errors.New("lz4: an empty block")
)

// lz4Walker follows the frames of an LZ4 file
// (https://github.com/lz4/lz4/blob/dev/doc/lz4_Frame_format.md), to see that each
// comes to its end: the decoder takes the end of the file for the end mark.
// It refuses what libarchive does, too: unknown flags, and magic numbers of
// skippable frames beyond the sixteen. And empty blocks, which libarchive takes for
// the end of the file. And the legacy format, which has no mark at its end.
type lz4Walker struct {
	walker
	flags   byte
	outside bool // of any frame
	some    bool // there was a frame
}

func newLZ4Walker(in io.Reader) *lz4Walker {
	w := &lz4Walker{walker: walker{in: in}}
	w.end = w.atEnd
	w.nextFrame(0)
	return w
}

func (w *lz4Walker) atEnd() error {
	if w.some && w.outside && w.between() {
		return io.EOF
	}
	return io.ErrUnexpectedEOF
}

func (w *lz4Walker) nextFrame(skip int64) {
	w.outside = true
	w.then(skip, 4, w.magic)
}

func (w *lz4Walker) magic(field []byte) error {
	w.outside = false
	switch magic := binary.LittleEndian.Uint32(field); {
	case magic == 0x184d2204:
		w.some = true
		w.then(0, 2, w.header)
	case magic&^0xf == 0x184d2a50:
		w.then(0, 4, w.skippable)
	default:
		return errLZ4Magic
	}
	return nil
}

// skippable reads the size of a frame for other programs.
func (w *lz4Walker) skippable(field []byte) error {
	w.nextFrame(int64(binary.LittleEndian.Uint32(field)))
	return nil
}

// What a frame's flags tell.
const (
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
	if w.flags&(lz4Version|lz4Unsupported) != lz4Version1 || field[1]&otherBits != 0 {
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
	case word == 0:
		w.nextFrame(w.ifFlag(lz4ContentChecksum, 4))
	case word == stored, word == 1: // 1 byte is a token that has nothing follow
		return errLZ4Block
	default:
		w.nextBlock(int64(size) + w.ifFlag(lz4BlockChecksums, 4))
	}
	return nil
}
