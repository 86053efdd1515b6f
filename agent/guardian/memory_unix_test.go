//go:build unix

package guardian_test

import (
	"syscall"
	"testing"
)

// To open a pipe that nobody writes to would hold up the start for ever, and the stop with it.
func TestAPipeForAStateIsSetAsideAndSaid(t *testing.T) {
	setAsideAndSaid(t, func(path string) error { return syscall.Mkfifo(path, 0o600) })
}
