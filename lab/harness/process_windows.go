package harness

import (
	"os"
	"os/exec"
)

// OwnGroup has a process and what it starts be one group, apart from who starts it.
func OwnGroup(*exec.Cmd) {}

func killAll(_ int, below []int) {
	for _, pid := range below {
		if p, err := os.FindProcess(pid); err == nil {
			p.Kill() // an error means that it has ended
		}
	}
}
