//go:build unix

package guardian

import (
	"os"
	"syscall"
)

// stacksAsker: the Go runtime answers SIGQUIT with the stacks of all goroutines
// and ends the process, whatever its goroutines do. One that was stopped is woken
// to take it.
func stacksAsker(p *os.Process) func() error {
	return func() error {
		if err := p.Signal(syscall.SIGQUIT); err != nil {
			return err
		}
		return p.Signal(syscall.SIGCONT)
	}
}
