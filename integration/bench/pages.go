package main

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// keepMemory sees to it that so many bytes of free memory stay with the machine
// until they are released: it writes to them, and gives back all but a page here
// and there. A virtual machine tells its host of free blocks of 2 MiB and more,
// and to write to a page that the host has taken back costs ten times what it
// costs otherwise (https://docs.kernel.org/mm/free_page_reporting.html). So a push
// would be measured by what ran before it.
func keepMemory(dir string, size int64) (release func() error, err error) {
	f, err := os.CreateTemp(dir, "kept-")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, err
	}
	const page, kept = 4 << 10, 256 << 10 // one of each
	block := make([]byte, kept)
	for range size / kept {
		if _, err := f.Write(block); err != nil {
			return nil, fmt.Errorf("keep %d bytes of memory: %w", size, err)
		}
	}
	for at := int64(0); at < size; at += kept {
		const punch = unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE
		if err := unix.Fallocate(int(f.Fd()), punch, at+page, kept-page); err != nil {
			return nil, err
		}
	}
	return f.Close, nil
}
