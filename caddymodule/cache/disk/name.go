package disk

import (
	"hash/fnv"
	"strconv"
	"strings"
)

const shardCount = 256

func shardOf(key string) int {
	h := fnv.New32a()
	h.Write([]byte(key))
	return int(h.Sum32() % shardCount)
}

// keyOf returns the key that a file name begins with.
func keyOf(name string) string {
	key, _, _ := strings.Cut(name, ",")
	return key
}

// parseName is the inverse of Tier.fileName: it takes nothing that is spelled
// in another way. The strings share name's memory.
func parseName(name string) (key string, meta Meta, serial uint64, ok bool) {
	key, rest, ok1 := strings.Cut(name, ",")
	size, rest, ok2 := strings.Cut(rest, ",")
	tag, last, ok3 := strings.Cut(rest, ",")
	if !ok1 || !ok2 || !ok3 || key == "" {
		return "", Meta{}, 0, false
	}
	n, err := strconv.ParseInt(size, 10, 64)
	if err != nil || n < 0 || n > maxSize || strconv.FormatInt(n, 10) != size {
		return "", Meta{}, 0, false
	}
	serial, err = strconv.ParseUint(last, 36, 64)
	if err != nil || strconv.FormatUint(serial, 36) != last {
		return "", Meta{}, 0, false
	}
	return key, Meta{Size: n, Tag: tag}, serial, true
}
