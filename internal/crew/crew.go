// Package crew runs short jobs on goroutines that stay for the next one, so that a job
// finds a stack that has grown: where many links have a little work each now and then, a
// fresh goroutine for each spends more on its stack than on the work.
//
// Rules that hold here:
//   - Go never blocks and never refuses: where nobody is idle, one more goroutine is started;
//   - few stay idle, however many there were at once;
//   - who gives a job waits for it by a means of its own; Close waits for nobody.
package crew

import "sync"

// keep is how many stay without work.
const keep = 64

// Crew are the goroutines. The zero value is ready; a nil one starts a goroutine for each job.
type Crew struct {
	mu     sync.Mutex
	idle   []chan func() // the last one is the one that has just worked
	closed bool
}

// Go has job run by a goroutine of its own for as long as it takes.
func (c *Crew) Go(job func()) {
	if c == nil {
		go job()
		return
	}
	c.mu.Lock()
	n := len(c.idle)
	if n == 0 {
		c.mu.Unlock()
		go c.work(job)
		return
	}
	next := c.idle[n-1]
	c.idle = c.idle[:n-1]
	c.mu.Unlock()
	next <- job // has room: it is idle
}

// work runs job, and what comes after it.
func (c *Crew) work(job func()) {
	next := make(chan func(), 1)
	for job != nil {
		job()
		if !c.rest(next) {
			return
		}
		job = <-next
	}
}

// rest has next be idle; false: enough are.
func (c *Crew) rest(next chan func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || len(c.idle) == keep {
		return false
	}
	c.idle = append(c.idle, next)
	return true
}

// Close has the idle end at once and the others after their job. What comes later is still run.
func (c *Crew) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for _, next := range c.idle {
		close(next)
	}
	c.idle = nil
}
