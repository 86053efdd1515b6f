// Package asleep tells how long this machine has been suspended: time in which
// nothing here could run, so that no silence of that time means anything. Setting
// the wall clock is no sleep.
package asleep

import "time"

// Clock tells of a machine's sleep. The zero value is that of one that never sleeps.
type Clock struct {
	total  func() time.Duration
	goesOn bool // the monotonic clock does, in a sleep
}

// System is this machine's clock. Where the system does not tell (it is none of Linux,
// macOS and Windows), the machine seems never to sleep.
func System() Clock { return Clock{total, monotonicGoesOn} }

// New is the clock of a machine that has slept for total since some moment. goesOn
// says that its monotonic clock, which a [time.Time] bears, does not stand still meanwhile.
func New(total func() time.Duration, goesOn bool) Clock { return Clock{total, goesOn} }

// Total is how long the machine has slept, since some moment that stays the same
// while the process runs: compare two values.
func (c Clock) Total() time.Duration {
	if c.total == nil {
		return 0
	}
	return c.total()
}

// Missed is how much of a sleep the monotonic clock does not show: all, or nothing.
func (c Clock) Missed(slept time.Duration) time.Duration {
	if c.goesOn {
		return 0
	}
	return slept
}

// readings is how often two clocks are read for one difference.
const readings = 3

// ahead is by how much the clock that goes on in a sleep has outrun the one that
// stands still; 0 if one of them can't be read. What holds this process up between
// two readings would look like a sleep: the least of a few counts.
func ahead(stands, goesOn func() (time.Duration, bool)) time.Duration {
	var least time.Duration
	for i := range readings {
		a, ok := stands()
		b, ok2 := goesOn()
		if !ok || !ok2 {
			return 0
		}
		if d := b - a; i == 0 || d < least {
			least = d
		}
	}
	return least
}
