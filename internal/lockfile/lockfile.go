// Package lockfile holds a file for one process: the kernel lets go of it when
// the process ends, however it ends.
package lockfile

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"
)

// ErrInUse: another process holds the file. The error is an [InUseError].
var ErrInUse = errors.New("held by another process")

// InUseError says which process holds a file.
type InUseError struct {
	File  string
	PID   int       // 0: not known
	Since time.Time // when it took the file; zero: not known
}

func (e *InUseError) Error() string {
	if e.PID == 0 {
		return fmt.Sprintf("%s: %v", e.File, ErrInUse)
	}
	return fmt.Sprintf("%s: %v: process %d", e.File, ErrInUse, e.PID)
}

// Unwrap gives ErrInUse.
func (e *InUseError) Unwrap() error { return ErrInUse }

// Somebody who only looks ([Holder]) has the file for microseconds; Take asks a
// few times before it calls that a holder.
const (
	lookers    = 4
	lookerWait = 5 * time.Millisecond
)

// Holder tells whether a process holds file, and which (0: not known). It takes
// nothing: a file that does not exist is not made.
func Holder(file string) (pid int, held bool, err error) {
	f, err := os.Open(file)
	if err != nil {
		return 0, false, err
	}
	defer f.Close()
	free, err := lock(f, false)
	if err != nil {
		return 0, false, fmt.Errorf("look at lock %s: %w", file, err)
	}
	return readPID(f), !free, nil
}

// Lock is a file held by this process.
type Lock struct{ f *os.File }

// Release gives the file back; it stays.
func (l *Lock) Release() error { return l.f.Close() }

// Take takes file for this process, made if need be, and leaves the process id in it. A
// symbolic link is refused: what it leads to would be overwritten.
func Take(file string) (*Lock, error) {
	f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE|noFollow, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	return take(f, file)
}

// take locks f, which it closes if it can't.
func take(f *os.File, file string) (*Lock, error) {
	free, err := lock(f, true)
	for try := 0; err == nil && !free && try < lookers; try++ {
		time.Sleep(lookerWait)
		free, err = lock(f, true)
	}
	switch {
	case err != nil:
	case !free:
		held := &InUseError{File: file, PID: readPID(f)}
		if info, err := f.Stat(); err == nil {
			held.Since = info.ModTime() // the holder wrote its id then, and nothing since
		}
		f.Close()
		return nil, held
	default:
		// For whoever finds the lock taken; on a full disk it is held all the same.
		_ = writePID(f)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", file, err), f.Close())
	}
	return &Lock{f}, nil
}

// writePID leaves our process id for whoever finds the lock taken.
func writePID(f *os.File) error {
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err := f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	return err
}

// readPID gives the process id in a lock file, 0 if there is none.
func readPID(f *os.File) int {
	raw, err := io.ReadAll(io.NewSectionReader(f, 0, 32))
	if err != nil {
		return 0
	}
	id, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	if err != nil {
		return 0
	}
	return id
}
