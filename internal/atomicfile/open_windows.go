package atomicfile

import (
	"os"

	"golang.org/x/sys/windows"
)

// NoFollow has [os.OpenFile] refuse a path that is a symbolic link; not here, where to make
// one takes a right that ordinary users lack.
const NoFollow = 0

// Open opens path for reading. Unlike [os.Open] it lets others rename, replace
// and remove the file meanwhile, as Unix does. What is no regular file is [ErrNotFile].
func Open(path string) (*os.File, error) {
	name, err := windows.UTF16PtrFromString(path)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	h, err := windows.CreateFile(name, windows.GENERIC_READ,
		windows.FILE_SHARE_READ|windows.FILE_SHARE_WRITE|windows.FILE_SHARE_DELETE,
		nil, windows.OPEN_EXISTING, windows.FILE_ATTRIBUTE_NORMAL, 0)
	if err != nil {
		if info, serr := os.Stat(path); serr == nil && !info.Mode().IsRegular() { // a directory: access is denied
			err = ErrNotFile
		}
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(h), path), nil
}
