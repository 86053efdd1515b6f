package worker

import (
	"sync"
	"time"

	"gururmm/internal/asleep"
	"gururmm/internal/fault"
)

// exactEnough: an exchange that took longer says too little about the server's
// clock to replace what is known already.
const exactEnough = 2 * time.Second

// offsetGrain is how finely the offset is reported.
const offsetGrain = 10 * time.Millisecond

// clock is the server's time as this machine knows it. Once learnt it is carried
// on by the monotonic clock, so that nobody who sets this machine's wall clock
// makes commands look expired. It implements link.Clock.
type clock struct {
	asleep asleep.Clock

	mu     sync.Mutex
	server time.Time     // the server's time ...
	local  time.Time     // ... at this moment of ours; zero: the clocks were never compared
	slept  time.Duration // as of then
}

// Now is the server's time as far as known.
func (c *clock) Now() time.Time { return c.at(time.Now()) }

// at corrects a local time.
func (c *clock) at(t time.Time) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.correct(t)
}

// correct is at, with mu held. The monotonic clock may stand still while the
// machine sleeps; that is made up for.
func (c *clock) correct(t time.Time) time.Time {
	if c.local.IsZero() {
		return fault.Clock(t)
	}
	at := c.server.Add(t.Sub(c.local))
	if t.After(c.local) {
		at = at.Add(c.asleep.Missed(c.asleep.Total() - c.slept))
	}
	return at
}

// Observe takes in the server's time, told between sent and received (local
// clock). The true offset is within half of that span of the estimate.
func (c *clock) Observe(server, sent, received time.Time) {
	took := received.Sub(sent)
	c.mu.Lock()
	defer c.mu.Unlock()
	if server.IsZero() || took < 0 || !c.local.IsZero() && took > exactEnough {
		return
	}
	c.server, c.local, c.slept = server.Round(0), sent.Add(took/2), c.asleep.Total()
}

// set takes in an offset to the wall clock of now, learnt by the guardian.
func (c *clock) set(offset time.Duration) {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.server, c.local, c.slept = fault.Clock(now).Add(offset).Round(0), now, c.asleep.Total()
}

// facts gives the server's clock minus ours as of now; nil: they were never compared.
func (c *clock) facts() *time.Duration {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.local.IsZero() {
		return nil
	}
	// No finer than this: what time services do all day is no change to report.
	d := c.correct(now).Round(0).Sub(fault.Clock(now).Round(0)).Round(offsetGrain)
	return &d
}
