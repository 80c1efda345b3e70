package durable

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"time"
)

// abandoned is the age at which a temporary file counts as left behind where
// locks can't tell.
const abandoned = 24 * time.Hour

// Sweep removes from the staging directory of root what processes left there
// that are gone. What is still being written stays, by whichever process or
// machine, as long as the file system's flock(2) reaches that far; where there
// are no locks, a file goes a day after its last write. A missing staging
// directory is an empty one.
func Sweep(root *os.Root, staging string) error {
	entries, err := fs.ReadDir(root.FS(), staging)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var errs []error
	for _, entry := range entries {
		if entry.Type().IsRegular() {
			errs = append(errs, sweep(root, path.Join(staging, entry.Name())))
		}
	}
	return errors.Join(append(errs, err)...)
}

func sweep(root *os.Root, name string) error {
	file, err := root.OpenFile(name, os.O_RDWR, 0)
	if err == nil {
		defer file.Close()
		var gone bool
		if gone, err = ownerless(file); err == nil && gone {
			err = root.Remove(name)
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil // It has been committed, or swept elsewhere.
	}
	return err
}

func olderThanADay(file *os.File) (bool, error) {
	info, err := file.Stat()
	if err != nil {
		return false, err
	}
	return time.Since(info.ModTime()) > abandoned, nil
}
