//go:build linux || darwin

package tty

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

func is(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), getTermios)
	return err == nil
}

func hideInput(f *os.File) (restore func(), err error) {
	fd := int(f.Fd())
	was, err := unix.IoctlGetTermios(fd, getTermios)
	if err != nil {
		return nil, fmt.Errorf("terminal settings: %w", err)
	}
	hidden := *was
	hidden.Lflag &^= unix.ECHO
	hidden.Lflag |= unix.ICANON | unix.ISIG | unix.ECHONL
	hidden.Iflag |= unix.ICRNL
	if err := unix.IoctlSetTermios(fd, setTermios, &hidden); err != nil {
		return nil, fmt.Errorf("terminal settings: %w", err)
	}
	return func() { _ = unix.IoctlSetTermios(fd, setTermios, was) }, nil // a terminal that has gone needs nothing back
}
