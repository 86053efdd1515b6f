//go:build !windows

package atomicfile

import (
	"errors"
	"os"
	"syscall"
)

// Rename is os.Rename.
func Rename(from, to string) error { return os.Rename(from, to) }

func chmod(f *os.File, perm os.FileMode) error { return f.Chmod(perm) }

// SyncDir makes a rename in dir durable.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	// Some file systems can't sync a directory and say so; nothing more can be done there.
	if err := d.Sync(); err != nil && !errors.Is(err, syscall.EINVAL) && !errors.Is(err, syscall.ENOTSUP) {
		return err
	}
	return nil
}
