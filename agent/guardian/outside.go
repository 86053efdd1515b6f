package guardian

import (
	"time"

	"gururmm/agent/pipe"
	"gururmm/internal/tcpinfo"
	"gururmm/selfcheck"
)

// A worker that says nothing is asked, and looked at from outside: the kernel knows
// whether it is stopped, and how many bytes wait for it. What answers has a monitor that
// stands still; what does not stands still as a whole.

// lookEvery spaces the questions and looks: each reads the kernel's table of connections.
const lookEvery = 5 * time.Second

// outside is what the loop knows of one generation from outside.
type outside struct {
	look   func() (tcpinfo.Process, error) // nil: no such way
	busy   bool
	at     time.Time // of the next look, while it is silent
	state  string
	unread *uint64 // bytes, of its link
}

// lookDue looks at a silent worker when it is time.
func (g *Guardian) lookDue(now time.Time) {
	l := g.worker.life
	if l == nil || l.outside.busy || g.stopping {
		return
	}
	silent := g.snapshot.Worker.Silent
	if silent == nil || *silent < selfcheck.ReportMissed {
		l.outside.at, l.outside.state, l.outside.unread = time.Time{}, "", nil
		if !l.reported.IsZero() {
			l.outside.at = l.reported.Add(selfcheck.ReportMissed)
		}
		return
	}
	if now.Before(l.outside.at) {
		return
	}
	g.order(pipe.Order{Report: true})
	l.outside.at = now.Add(lookEvery)
	if l.outside.look == nil {
		return
	}
	l.outside.busy = true
	look := l.outside.look
	g.wg.Go(func() {
		seen, err := look()
		g.hand(func() { g.looked(l, seen, err) })
	})
}

// looked takes in what a look at l has shown.
func (g *Guardian) looked(l *life, seen tcpinfo.Process, err error) {
	if g.worker.life != l {
		return
	}
	o := &l.outside
	o.busy, o.at = false, time.Now().Add(lookEvery)
	o.state, o.unread = seen.State, nil
	if err != nil {
		g.log.Debug("silent worker can't be looked at", "error", err)
		return
	}
	remote := g.worker.said.Link.Remote
	for _, q := range seen.Queues {
		if remote == "" || q.Remote == remote {
			if o.unread == nil {
				o.unread = new(uint64(0))
			}
			*o.unread += q.Unread
		}
	}
}
