package replay

import (
	"runtime"
	"slices"
	"time"
)

// forever is later than any end of a run.
const forever = time.Duration(1<<63 - 1)

// clock runs tasks in virtual time: one at a time, in the order in which they began, each
// until it waits. Time moves when all wait. A run is the same each time.
type clock struct {
	now   time.Duration
	tasks []*task
	back  chan struct{} // a task waits, or has ended
}

// task is a coroutine of a clock: an awaited call in the described programs is a call here
// that returns when it is through, so that what stands behind it in a loop stands.
type task struct {
	c     *clock
	turn  chan struct{}
	ready func() bool // what it waits for; nil: time only
	due   time.Duration
	ended bool
	// aborted tasks end where they wait.
	aborted bool
}

func newClock() *clock { return &clock{back: make(chan struct{})} }

// spawn begins a task; it runs once its turn comes.
func (c *clock) spawn(run func(t *task)) *task {
	t := &task{c: c, turn: make(chan struct{}), due: c.now}
	c.tasks = append(c.tasks, t)
	go func() {
		defer func() {
			t.ended = true
			c.back <- struct{}{}
		}()
		<-t.turn
		if !t.aborted {
			run(t)
		}
	}()
	return t
}

// until waits for ready, but no longer than to a moment, and tells whether it came.
func (t *task) until(due time.Duration, ready func() bool) bool {
	t.ready, t.due = ready, due
	t.c.back <- struct{}{}
	<-t.turn
	if t.aborted {
		runtime.Goexit()
	}
	return ready != nil && ready()
}

func (t *task) sleep(d time.Duration) { t.until(t.c.now+d, nil) }

// abort ends a task where it waits; a task does not abort itself.
func (t *task) abort() { t.aborted = true }

// run lets all tasks run to a moment.
func (c *clock) run(to time.Duration) {
	for {
		moved := false
		for i := 0; i < len(c.tasks); i++ { // more may come meanwhile
			t := c.tasks[i]
			if t.ended || !t.aborted && c.now < t.due && (t.ready == nil || !t.ready()) {
				continue
			}
			moved = true
			c.give(t)
		}
		c.tasks = slices.DeleteFunc(c.tasks, func(t *task) bool { return t.ended })
		if moved {
			continue
		}
		next := forever
		for _, t := range c.tasks {
			next = min(next, t.due)
		}
		if next > to {
			c.now = to
			return
		}
		c.now = next
	}
}

func (c *clock) give(t *task) {
	t.turn <- struct{}{}
	<-c.back
}

// end ends all tasks that are left.
func (c *clock) end() {
	for len(c.tasks) > 0 {
		t := c.tasks[0]
		c.tasks = c.tasks[1:]
		if !t.ended {
			t.aborted = true
			c.give(t)
		}
	}
}
