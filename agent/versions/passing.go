package versions

import (
	"errors"
	"slices"
	"syscall"
)

// Passing reports whether err, of a program that could not be started, tells of the
// machine at that moment and not of the program: it may well start a moment later. A
// program that was written just now counts too: a process that is being forked may
// still hold it open for writing (ETXTBSY of execve(2)).
func Passing(err error) bool {
	code, ok := errors.AsType[syscall.Errno](err)
	return ok && slices.Contains(passing, code)
}
