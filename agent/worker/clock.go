package worker

import (
	"sync"
	"time"

	"gururmm/internal/fault"
)

// exactEnough: an exchange that took longer says too little about the server's
// clock to replace what is known already.
const exactEnough = 2 * time.Second

// clock is this machine's clock, corrected by what the server has told. It
// implements link.Clock.
type clock struct {
	mu     sync.Mutex
	offset time.Duration // server's minus ours
	known  bool
}

// Now is the server's time as far as known.
func (c *clock) Now() time.Time { return c.at(time.Now()) }

// at corrects a local time.
func (c *clock) at(t time.Time) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return fault.Clock(t).Add(c.offset)
}

// Observe takes in the server's time, told between sent and received (local
// clock). The true offset is within half of that span of the estimate.
func (c *clock) Observe(server, sent, received time.Time) {
	took := received.Sub(sent)
	sent = fault.Clock(sent)
	c.mu.Lock()
	defer c.mu.Unlock()
	if server.IsZero() || took < 0 || c.known && took > exactEnough {
		return
	}
	// The wall clocks are compared: the server's time has no monotonic reading.
	c.offset, c.known = server.Sub(sent.Add(took/2).Round(0)), true
}

// set takes in an offset learnt by the guardian.
func (c *clock) set(offset time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.offset, c.known = offset, true
}

// facts gives the offset; nil: the clocks were never compared.
func (c *clock) facts() *time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.known {
		return nil
	}
	d := c.offset
	return &d
}
