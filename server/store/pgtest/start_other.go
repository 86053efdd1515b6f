//go:build !linux

package pgtest

import "os/exec"

func giveAway(string) error { return nil }

func unprivileged(*exec.Cmd) {}

func wait(cmd *exec.Cmd, started chan<- error, done chan<- struct{}) {
	err := cmd.Start()
	started <- err
	if err == nil {
		_ = cmd.Wait() // how it ended is in its log
	}
	close(done)
}
