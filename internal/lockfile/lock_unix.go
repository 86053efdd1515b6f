//go:build unix

package lockfile

import (
	"errors"
	"os"
	"syscall"
)

// lock takes f for this process alone; free is false if another has it.
func lock(f *os.File) (free bool, err error) {
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return false, nil
	}
	return err == nil, err
}
