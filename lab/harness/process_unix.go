//go:build unix

package harness

import (
	"os/exec"
	"syscall"
)

func ownGroup(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }

// killAll ends the group that pid leads and the processes found below it. Errors
// mean that they have ended.
func killAll(pid int, below []int) {
	syscall.Kill(-pid, syscall.SIGKILL)
	for _, child := range below {
		syscall.Kill(child, syscall.SIGKILL)
	}
}
