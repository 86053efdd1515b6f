package asleep

import (
	"time"

	"golang.org/x/sys/unix"
)

// Certain: a step of the wall clock is not taken for a sleep.
const Certain = true

// total is how long this machine has slept since it booted: CLOCK_BOOTTIME goes
// on then, CLOCK_MONOTONIC does not. Unlike a jump of the wall clock it can't be
// mistaken for somebody setting the time.
func total() time.Duration {
	var boot, mono unix.Timespec
	if unix.ClockGettime(unix.CLOCK_MONOTONIC, &mono) != nil || unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot) != nil {
		return 0
	}
	return time.Duration(boot.Nano() - mono.Nano())
}
