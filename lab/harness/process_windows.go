package harness

import (
	"os"
	"os/exec"
)

func ownGroup(*exec.Cmd) {}

func killAll(_ int, below []int) {
	for _, pid := range below {
		if p, err := os.FindProcess(pid); err == nil {
			p.Kill() // an error means that it has ended
		}
	}
}
