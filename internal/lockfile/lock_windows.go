package lockfile

import (
	"errors"
	"os"

	"golang.org/x/sys/windows"
)

// lockOffset is far behind the process id: a locked range can't be read by others.
const lockOffset = 1 << 30

const noFollow = 0 // to make a link takes a right there that ordinary users lack

// lock takes f for this process alone, or shares it with others who only look;
// free is false if another has it.
func lock(f *os.File, alone bool) (free bool, err error) {
	how := uint32(windows.LOCKFILE_FAIL_IMMEDIATELY)
	if alone {
		how |= windows.LOCKFILE_EXCLUSIVE_LOCK
	}
	err = windows.LockFileEx(windows.Handle(f.Fd()), how, 0, 1, 0, &windows.Overlapped{Offset: lockOffset})
	if errors.Is(err, windows.ERROR_LOCK_VIOLATION) {
		return false, nil
	}
	return err == nil, err
}
