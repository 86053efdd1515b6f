package asleep

import "golang.org/x/sys/unix"

// clock_gettime(2); nobody can set either.
const (
	clockStands = unix.CLOCK_MONOTONIC
	clockGoesOn = unix.CLOCK_BOOTTIME
)
