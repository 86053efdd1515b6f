//go:build unix

package harness

import (
	"os/exec"
	"syscall"
)

// OwnGroup has a process and what it starts be one group, apart from who starts it.
func OwnGroup(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }

// killAll ends the group that pid leads and the processes found below it. Errors
// mean that they have ended.
func killAll(pid int, below []int) {
	syscall.Kill(-pid, syscall.SIGKILL)
	for _, child := range below {
		syscall.Kill(child, syscall.SIGKILL)
	}
}
