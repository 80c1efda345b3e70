package nix

import (
	"errors"
	"fmt"
)

// base32Alphabet is that of Nix's base-32: digits and lower-case letters
// without e, o, t and u.
const base32Alphabet = "0123456789abcdfghijklmnpqrsvwxyz"

const notBase32 = 0xff

// base32Values maps a character to its value, or to notBase32.
var base32Values = func() (values [256]byte) {
	for i := range values {
		values[i] = notBase32
	}
	for i := range len(base32Alphabet) {
		values[base32Alphabet[i]] = byte(i)
	}
	return values
}()

// base32Len returns the number of characters that stand for size bytes.
func base32Len(size int) int { return (size*8 + 4) / 5 }

// EncodeBase32 returns data in Nix base-32 (libutil/base-nix-32.cc): the bytes
// are one little-endian number, written with its most significant digit first
// and without padding.
func EncodeBase32(data []byte) string {
	return string(appendBase32(make([]byte, 0, base32Len(len(data))), data))
}

func appendBase32(dst, data []byte) []byte {
	for n := base32Len(len(data)) - 1; n >= 0; n-- {
		i, shift := n*5/8, n*5%8
		digit := data[i] >> shift
		if i+1 < len(data) {
			digit |= data[i+1] << (8 - shift)
		}
		dst = append(dst, base32Alphabet[digit&0x1f])
	}
	return dst
}

// DecodeBase32 is the inverse of [EncodeBase32]. It takes only what that
// returns: a length no data has, or set bits beyond the last byte, are errors.
func DecodeBase32(s string) ([]byte, error) {
	data := make([]byte, len(s)*5/8)
	if err := decodeBase32(data, s); err != nil {
		return nil, fmt.Errorf("decode Nix base-32 %s: %w", quote(s), err)
	}
	return data, nil
}

var errBase32Overflow = errors.New("first character is too large for the length")

// decodeBase32 fills dst, which is all zero, from s, which must stand for
// exactly as many bytes.
func decodeBase32(dst []byte, s string) error {
	if len(s) != base32Len(len(dst)) {
		return fmt.Errorf("%d characters are not a whole number of bytes", len(s))
	}
	for n := range len(s) {
		c := s[len(s)-1-n]
		value := base32Values[c]
		if value == notBase32 {
			return fmt.Errorf("character %s is not in %s", quote(string(rune(c))), base32Alphabet)
		}
		i, shift := n*5/8, n*5%8
		dst[i] |= value << shift
		carry := value >> (8 - shift)
		if i+1 < len(dst) {
			dst[i+1] |= carry
		} else if carry != 0 {
			return errBase32Overflow
		}
	}
	return nil
}
