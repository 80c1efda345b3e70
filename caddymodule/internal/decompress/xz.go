package decompress

import (
	"encoding/binary"
	"errors"
	"io"

	"github.com/therootcompany/xz"
)

// xzWithin decodes what asks for a dictionary of at most so many bytes.
func xzWithin(dict uint32) decoder {
	return func(in io.Reader) (io.ReadCloser, error) {
		x, err := xz.NewReader(newXZWalker(in), dict)
		if err != nil {
			return nil, err
		}
		return plain(x)
	}
}

var (
	errXZFirstByte = errors.New("xz: the data of an LZMA2 chunk begin with another byte than 0")
	errXZPadding   = errors.New("xz: more padding and empty streams than encoders write")
	errXZChunk     = errors.New("xz: no LZMA2 chunk where one should begin")
)

// xzWalker follows the streams of an .xz file
// (https://tukaani.org/xz/xz-file-format.txt) to the first byte that the range
// decoder gets of each LZMA2 chunk. It has to be 0: liblzma says that the data are
// corrupt if it isn't, the decoder here takes any. It also counts what is there for
// nothing: padding, and streams and blocks with nothing in them. All else is the
// decoder's to judge, so that the walker may go astray only in what the decoder
// refuses.
type xzWalker struct {
	walker
	padding int64 // bytes for nothing so far
	some    bool  // is in the stream
	check   int64 // bytes of the check behind each block
	header  int64 // bytes of the block's
	block   int64 // bytes of the block's chunks, as far as they were announced
	index   int64 // bytes of the index so far
	left    uint64
	vli     uint64 // an integer of the index, of which so many bits are known
	bits    int
}

func newXZWalker(in io.Reader) *xzWalker {
	w := &xzWalker{walker: walker{in: in}}
	w.nextStream(0)
	return w
}

// nextStream expects a stream, or 4 bytes of padding, after so many bytes.
func (w *xzWalker) nextStream(skip int64) { w.then(skip, 4, w.streamOrPadding) }

func (w *xzWalker) streamOrPadding(field []byte) error {
	if string(field) == "\x00\x00\x00\x00" {
		return w.pad(int64(len(field)))
	}
	const restOfMagic, restOfHeader = 2, 6
	w.then(restOfMagic, restOfHeader, w.streamHeader)
	return nil
}

// pad counts bytes that bring nothing.
func (w *xzWalker) pad(size int64) error {
	if w.padding += size; w.padding > maxPadding {
		return errXZPadding
	}
	return nil
}

// streamHeader reads flags and CRC.
func (w *xzWalker) streamHeader(field []byte) error {
	w.some = false
	w.check = xzCheckSize(field[1])
	w.then(0, 1, w.blockOrIndex)
	return nil
}

// xzCheckSize is how many bytes a check takes: none, and three kinds each of 4, 8,
// 16, 32 and 64.
func xzCheckSize(flags byte) int64 {
	if kind := int64(flags & 0x0f); kind > 0 {
		return 4 << ((kind - 1) / 3)
	}
	return 0
}

// blockOrIndex reads the size of a block's header, in words after the first; or 0,
// which begins the index.
func (w *xzWalker) blockOrIndex(field []byte) error {
	words := int64(field[0])
	if words == 0 {
		w.index = 1
		w.nextInteger(w.indexCount)
		return nil
	}
	w.block = 0
	w.header = (words + 1) * 4
	const size = 1
	w.nextChunk(w.header - size)
	return nil
}

func (w *xzWalker) nextChunk(skip int64) { w.then(skip, 1, w.control) }

// control reads the first byte of an LZMA2 chunk, which tells what follows: of
// a chunk of LZMA the sizes, maybe properties, and the data; of one that isn't
// compressed its size and the data.
func (w *xzWalker) control(field []byte) error {
	w.block++
	switch control := field[0]; {
	case control == 0:
		return w.blockEnd()
	case control >= 0xc0:
		const properties = 1
		w.then(0, 4+properties+1, w.lzmaChunk)
	case control >= 0x80:
		w.then(0, 4+1, w.lzmaChunk)
	case control <= 2:
		w.then(0, 2, w.plainChunk)
	default:
		return errXZChunk
	}
	return nil
}

// lzmaChunk reads what there is of a chunk between control and the second byte of
// the data.
func (w *xzWalker) lzmaChunk(field []byte) error {
	if field[len(field)-1] != 0 {
		return errXZFirstByte
	}
	w.some = true
	rest := int64(binary.BigEndian.Uint16(field[2:])) // the size, less one
	w.block += int64(len(field)) + rest
	w.nextChunk(rest)
	return nil
}

func (w *xzWalker) plainChunk(field []byte) error {
	w.some = true
	size := int64(binary.BigEndian.Uint16(field)) + 1
	w.block += int64(len(field)) + size
	w.nextChunk(size)
	return nil
}

// blockEnd passes the padding of a block and its check.
func (w *xzWalker) blockEnd() error {
	rest := xzPadding(w.block) + w.check
	w.then(rest, 1, w.blockOrIndex)
	const empty = 1 // byte: the end of the chunks
	if w.block == empty {
		return w.pad(w.header + w.block + rest)
	}
	return nil
}

func xzPadding(size int64) int64 { return -size & 3 }

// nextInteger expects an integer of the index, and has then read what is in w.vli.
func (w *xzWalker) nextInteger(then func() error) {
	w.vli, w.bits = 0, 0
	w.then(0, 1, func(field []byte) error {
		w.index++
		w.vli |= uint64(field[0]&0x7f) << w.bits
		w.bits += 7
		if field[0] < 0x80 {
			return then()
		}
		return nil
	})
}

// indexCount has the number of blocks, for each of which the index has two sizes.
func (w *xzWalker) indexCount() error {
	w.left = 2*w.vli + 1
	return w.indexRecord()
}

func (w *xzWalker) indexRecord() error {
	if w.left--; w.left > 0 {
		w.nextInteger(w.indexRecord)
		return nil
	}
	return w.streamEnd()
}

// streamEnd passes the padding of the index, its CRC and the footer.
func (w *xzWalker) streamEnd() error {
	const header, crc, footer = 12, 4, 12
	rest := xzPadding(w.index) + crc + footer
	w.nextStream(rest)
	if w.some {
		return nil
	}
	return w.pad(header + w.index + rest)
}
