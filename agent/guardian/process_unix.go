//go:build unix

package guardian

import (
	"os"
	"syscall"
)

// stacksAsker: the Go runtime answers SIGQUIT with the stacks of all goroutines
// and ends the process, whatever its goroutines do.
func stacksAsker(p *os.Process) func() error {
	return func() error { return p.Signal(syscall.SIGQUIT) }
}
