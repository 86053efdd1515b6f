// Package fileerr puts errors of the file system in words for people; what they are
// can still be asked of them with errors.Is.
package fileerr

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

// said is an error in the words of a person; what it is remains to be asked of it.
type said struct {
	words string
	err   error
}

// Said is err in the words of who knows better what happened.
func Said(words string, err error) error { return &said{words, err} }

func (e *said) Error() string { return e.words }
func (e *said) Unwrap() error { return e.err }

// Why puts an error of the file system in words that name the file, for a sentence
// that goes on with what to do; any other err is given back as it is.
func Why(err error) error {
	e, ok := errors.AsType[*fs.PathError](err)
	if !ok {
		return err
	}
	switch {
	case errors.Is(err, fs.ErrNotExist) && e.Op == "mkdir":
		return &said{"the system makes no directory " + e.Path, err}
	case errors.Is(err, fs.ErrNotExist):
		return &said{"there is no " + e.Path, err}
	case errors.Is(err, fs.ErrPermission) && os.Geteuid() == 0:
		return &said{"the system does not allow it at " + e.Path + ", not even to root", err}
	case errors.Is(err, fs.ErrPermission):
		return &said{"this account " + account() + "has no right to it at " + e.Path, err}
	case errors.Is(err, syscall.ENOTDIR):
		return &said{e.Path + " is a file, or lies below one, where a directory is wanted", err}
	case errors.Is(err, syscall.EISDIR):
		return &said{e.Path + " is a directory where a file is wanted", err}
	case errors.Is(err, syscall.EROFS):
		return &said{e.Path + " is on a file system that can't be written", err}
	}
	return err
}

// account names who runs this, with a space behind it; on Windows nobody does by number.
func account() string {
	if uid := os.Geteuid(); uid >= 0 {
		return fmt.Sprintf("(uid %d) ", uid)
	}
	return ""
}
