package guardian

import "time"

// maxJobs bounds what waits for the disk; beyond it the disk is not working.
const maxJobs = 1024

// What the keeper is asked to write.
const (
	jobReport  = "report"
	jobState   = "state"
	jobPolicy  = "policy"
	jobUpdate  = "update"
	jobHistory = "history"
	jobStacks  = "stacks"
	jobDisk    = "look at the disk"
)

// job is one piece of work for the keeper, which alone waits for the disk.
type job struct {
	what string
	do   func() error
	then func(error) // in the loop, once it is done; nil: nothing
}

// keep hands j to the keeper; it returns at once. False: it will not be done.
func (g *Guardian) keep(j job) bool {
	if err := g.keeper.Push(j, 1); err != nil {
		g.log.Error("disk does not keep up: not written", "what", j.what, "error", err)
		if j.what == jobReport {
			g.beacons.putting--
		}
		return false
	}
	return true
}

// work does one job, in the keeper's goroutine.
func (g *Guardian) work(j job) {
	err := j.do()
	spooled, dropped := 0, 0
	if g.cfg.Spool != nil {
		spooled, dropped = g.cfg.Spool.Len(), g.cfg.Spool.Dropped()
	}
	g.hand(func() {
		g.beacons.waiting, g.beacons.dropped = spooled, dropped
		g.worked(j, err)
	})
}

// worked takes note of what became of a job.
func (g *Guardian) worked(j job, err error) {
	// What is tried for as long as it fails is said once.
	again := j.what == jobState && g.memory.broken != nil || j.what == jobHistory && g.history.broken != nil
	if err != nil && !again {
		g.log.Error("could not be written to disk", "what", j.what, "error", err)
	}
	switch j.what {
	case jobReport:
		g.beacons.putting--
	case jobState:
		if g.memory.broken = err; err != nil {
			g.unsaved()
		}
	case jobHistory:
		if g.history.broken = err; err != nil {
			g.history.again = time.Now().Add(saveEvery)
		}
	}
	if j.then != nil {
		j.then(err)
	}
}
