package asleep

import "golang.org/x/sys/unix"

// clock_gettime(3): the first is mach_absolute_time, the second mach_continuous_time.
// Both tick alike, and nobody can set either.
const (
	clockStands = unix.CLOCK_UPTIME_RAW
	clockGoesOn = unix.CLOCK_MONOTONIC_RAW
)
