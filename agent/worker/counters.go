package worker

import (
	"sync"
	"time"

	"gururmm/agent/link"
	"gururmm/selfcheck"
	"gururmm/wire"
)

// counters count what passed each stage on the current link. What comes by the
// second door is counted only when it is refused, and what it leads to later
// (started, finished).
type counters struct {
	mu      sync.Mutex
	session *link.Session
	c       wire.StageCounters
	// baseStarted and baseFinished are the executor's counts when the link began.
	baseStarted, baseFinished uint64

	undecodedAt, rejectedAt time.Time
	rejectedCode            wire.Code
}

// open begins the count of a new link.
func (c *counters) open(s *link.Session, started, finished uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.session, c.c = s, wire.StageCounters{}
	c.baseStarted, c.baseFinished = started, finished
	// An old link's refusals are no evidence against this one.
	c.undecodedAt, c.rejectedAt, c.rejectedCode = time.Time{}, time.Time{}, ""
}

// count changes the counters on behalf of what came by session s, unless
// another link has begun meanwhile.
func (c *counters) count(s *link.Session, change func(*wire.StageCounters)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s != nil && s == c.session {
		change(&c.c)
	}
}

// refused counts a message refused with code.
func (c *counters) refused(s *link.Session, code wire.Code) {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if s != nil && s != c.session {
		return
	}
	switch code {
	case wire.CodeDuplicate:
		c.c.Duplicates++
	case wire.CodeUnparseable:
		c.c.Undecoded++
		c.undecodedAt = now
	default:
		c.c.Rejected++
		c.rejectedAt, c.rejectedCode = now, code
	}
}

// result counts a result handed to the writer.
func (c *counters) result() {
	c.mu.Lock()
	c.c.Results++
	c.mu.Unlock()
}

// stages gives the counters; started and finished are the executor's counts,
// read what the link's ledger says.
func (c *counters) stages(read, started, finished uint64) wire.StageCounters {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := c.c
	out.Read, out.Started, out.Finished = read, started-c.baseStarted, finished-c.baseFinished
	return out
}

// fill adds the counters to a snapshot.
func (c *counters) fill(s *selfcheck.Snapshot, started, finished uint64, now time.Time) {
	s.Stages = c.stages(s.Link.Ledger.Local.Read, started, finished)
	c.mu.Lock()
	defer c.mu.Unlock()
	s.UndecodedAge, s.RejectedAge = selfcheck.Age(c.undecodedAt, now), selfcheck.Age(c.rejectedAt, now)
	s.RejectedCode = c.rejectedCode
}
