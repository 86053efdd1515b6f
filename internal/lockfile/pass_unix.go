//go:build unix

package lockfile

import (
	"fmt"
	"os"
	"strconv"
	"syscall"
)

// Pass lets the lock live on in the program that this process becomes by exec:
// there is no moment at which another could take it. The text is for [Adopt] there. An
// exec that failed is followed by Keep.
func (l *Lock) Pass() (text string, err error) {
	fd := l.f.Fd()
	return strconv.Itoa(int(fd)), l.closeOnExec(fd, 0)
}

// Keep takes Pass back.
func (l *Lock) Keep() error { return l.closeOnExec(l.f.Fd(), syscall.FD_CLOEXEC) }

func (l *Lock) closeOnExec(fd uintptr, flag int) error {
	if _, _, errno := syscall.Syscall(syscall.SYS_FCNTL, fd, syscall.F_SETFD, uintptr(flag)); errno != 0 {
		return fmt.Errorf("pass the lock on: %w", errno)
	}
	return nil
}

// Adopt takes over, from the text of [Lock.Pass], the lock of file that the program
// before held. What is not that is left alone, and file is taken as by [Take].
func Adopt(text, file string) (*Lock, error) {
	fd, err := strconv.Atoi(text)
	if err != nil || fd <= 2 {
		return Take(file)
	}
	var held, there syscall.Stat_t
	if syscall.Fstat(fd, &held) != nil || syscall.Stat(file, &there) != nil || held.Dev != there.Dev || held.Ino != there.Ino {
		return Take(file)
	}
	syscall.CloseOnExec(fd)
	return take(os.NewFile(uintptr(fd), file), file) // what is ours already is only taken again
}
