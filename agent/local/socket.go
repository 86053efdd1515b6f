package local

import (
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"gururmm/internal/lockfile"
	"gururmm/internal/moment"
)

// StatusGroup is the Unix group whose members may ask for the status, if it exists.
const StatusGroup = "gururmm"

// ErrInUse says that another guardian serves this state directory or socket.
var ErrInUse = errors.New("another agent is running")

// InUseError says which process holds a state directory.
type InUseError struct {
	File  string    // in the state directory
	PID   int       // 0: not known
	Since time.Time // zero: not known
}

func (e *InUseError) Error() string {
	who := "a process that did not leave its id"
	if e.PID != 0 {
		who = fmt.Sprintf("process %d", e.PID)
	}
	if !e.Since.IsZero() {
		who += ", since " + moment.Local(e.Since)
	}
	return fmt.Sprintf("%v: %s, on the state directory %s", ErrInUse, who, filepath.Dir(e.File))
}

func (e *InUseError) Unwrap() error { return ErrInUse }

// Lock holds a state directory for one guardian, by a file in it. Passed is what the
// program before gave this process by [lockfile.Lock.Pass]; "": nothing.
func Lock(file, passed string) (lock *lockfile.Lock, err error) {
	lock, err = lockfile.Adopt(passed, file)
	if held, ok := errors.AsType[*lockfile.InUseError](err); ok {
		err = &InUseError{File: held.File, PID: held.PID, Since: held.Since}
	}
	return lock, err
}
