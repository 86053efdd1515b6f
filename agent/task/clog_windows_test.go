package task

import (
	"path/filepath"
	"strings"
	"testing"

	"gururmm/wire"
)

// A job that floods, one that waits for input and one that leaves a child at its pipes
// give their slot back, as those of clog_test.go do; and the next command runs.
func TestNoJobKeepsItsSlotOnWindows(t *testing.T) {
	for _, job := range []struct {
		name, script string
		ends         bool // by itself; else by its timeout
	}{
		{name: "floods", script: ":again\necho yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\ngoto again"},
		{name: "reads its input for ever", script: ":again\nset /p line=\nping -n 2 127.0.0.1 >nul\ngoto again"},
		{name: "leaves a child at its pipes", script: "start /b ping -n 1000 127.0.0.1\nexit /b 0", ends: true},
	} {
		t.Run(strings.ReplaceAll(job.name, " ", "_"), func(t *testing.T) {
			e, u := openAt(t, filepath.Join(t.TempDir(), "task"), func(o *Options) { o.MaxJobs = 1 })
			c := command(wire.NewID(), job.script)
			if !job.ends {
				c.TimeoutMS = 1000
			}
			order(t, e, c)
			r := u.result(t, c.ID)
			t.Logf("%s (%s), orphans %t; %d bytes kept, %d lost", r.State, r.Reason, r.Orphans, r.StdoutBytes+r.StderrBytes, r.StdoutLost+r.StderrLost)
			if job.ends && r.State != wire.StateCompleted ||
				!job.ends && (r.State != wire.StateFailed || !strings.Contains(r.Reason, "timed out") || strings.Contains(r.Reason, "outlived")) {
				t.Errorf("%+v", r)
			}
			next := command(wire.NewID(), "echo next")
			order(t, e, next) // fails if it is refused
			if r := u.result(t, next.ID); r.State != wire.StateCompleted || strings.TrimSpace(string(r.Stdout)) != "next" {
				t.Errorf("the next command: %+v", r)
			}
		})
	}
}
