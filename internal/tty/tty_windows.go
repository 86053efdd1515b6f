package tty

import (
	"fmt"
	"os"

	"golang.org/x/sys/windows"
)

func is(f *os.File) bool {
	var mode uint32
	return windows.GetConsoleMode(windows.Handle(f.Fd()), &mode) == nil
}

func hideInput(f *os.File) (restore func(), err error) {
	console := windows.Handle(f.Fd())
	var was uint32
	if err := windows.GetConsoleMode(console, &was); err != nil {
		return nil, fmt.Errorf("console mode: %w", err)
	}
	hidden := was&^windows.ENABLE_ECHO_INPUT | windows.ENABLE_LINE_INPUT | windows.ENABLE_PROCESSED_INPUT
	if err := windows.SetConsoleMode(console, hidden); err != nil {
		return nil, fmt.Errorf("console mode: %w", err)
	}
	return func() { _ = windows.SetConsoleMode(console, was) }, nil // a console that has gone needs nothing back
}
