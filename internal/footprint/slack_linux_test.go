package footprint

import (
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"
)

// What a thread of ours starts takes over its slack; only not what Punctual starts.
func TestSlackIsNotTheJobs(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	t.Cleanup(func() { Slack(usualSlack) })
	Slack(3 * time.Millisecond)
	slack := func(start func(*exec.Cmd) error) string {
		t.Helper()
		var out strings.Builder
		cmd := exec.Command("cat", "/proc/self/timerslack_ns")
		cmd.Stdout = &out
		if err := start(cmd); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(out.String())
	}
	for range 2 { // the thread has its own back afterwards
		if got := slack((*exec.Cmd).Start); got != "3000000" {
			t.Errorf("a worker's timers have a slack of %s ns, want ours, 3000000", got)
		}
		if got := slack(func(c *exec.Cmd) error { return Punctual(c.Start) }); got != "50000" {
			t.Errorf("a job's timers have a slack of %s ns, want the usual 50000", got)
		}
	}
}
