//go:build !windows

package atomicfile

import (
	"os"
	"syscall"
)

// NoFollow has [os.OpenFile] refuse a path that is a symbolic link.
const NoFollow = syscall.O_NOFOLLOW

// Open opens path for reading. It lets others rename, replace and remove the file meanwhile.
// What is no regular file is [ErrNotFile]: to open a pipe, or to read one, could block for ever.
func Open(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = &os.PathError{Op: "open", Path: path, Err: ErrNotFile}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
