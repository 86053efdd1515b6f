package guardian

import (
	"errors"
	"fmt"

	"gururmm/internal/lockfile"
)

// StatusGroup is the Unix group whose members may ask for the status, if it exists.
const StatusGroup = "gururmm"

// ErrInUse says that another guardian serves this state directory or socket.
var ErrInUse = errors.New("another agent is running")

// InUseError says which process holds a state directory.
type InUseError struct {
	File string
	PID  int // 0: not known
}

func (e *InUseError) Error() string {
	if e.PID == 0 {
		return fmt.Sprintf("%v on this state directory (it holds %s)", ErrInUse, e.File)
	}
	return fmt.Sprintf("%v on this state directory: process %d (it holds %s)", ErrInUse, e.PID, e.File)
}

func (e *InUseError) Unwrap() error { return ErrInUse }

// Lock holds a state directory for one guardian, by a file in it.
func Lock(file string) (release func() error, err error) {
	release, err = lockfile.Hold(file)
	if held, ok := errors.AsType[*lockfile.InUseError](err); ok {
		err = &InUseError{File: held.File, PID: held.PID}
	}
	return release, err
}
