// Package tty tells a terminal from what only looks like one, and hides what is
// typed on it. /dev/null is a character device, too: only the terminal's own
// settings prove that a person may sit there.
package tty

import "os"

// Is tells whether f is a terminal.
func Is(f *os.File) bool { return is(f) }

// Colorful tells whether f shows colours: a terminal, and nobody has said that they are
// not wanted (NO_COLOR, as no-color.org has it: set and not empty).
func Colorful(f *os.File) bool {
	return os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && Is(f)
}

// HideInput turns the echo of the terminal f off; restore, which may be called
// more than once, puts back what was. The end of a line is still shown.
func HideInput(f *os.File) (restore func(), err error) { return hideInput(f) }
