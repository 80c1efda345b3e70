//go:build !(linux || darwin || freebsd || netbsd || openbsd || dragonfly)

package durable

import (
	"errors"
	"os"
)

var errNotDir = errors.New("not a directory")

func claim(*os.File) (kept bool, err error) { return true, nil }

// Lock does nothing here.
func Lock(*os.File) error { return nil }

func ownerless(file *os.File) (bool, error) { return olderThanADay(file) }
