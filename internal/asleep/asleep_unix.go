//go:build linux || darwin

package asleep

import (
	"time"

	"golang.org/x/sys/unix"
)

// The Go runtime's monotonic clock is the one that stands still.
const monotonicGoesOn = false

func total() time.Duration { return sleep(unix.ClockGettime) }

// sleep is how long the machine has slept since it booted, by its two clocks.
func sleep(gettime func(clock int32, t *unix.Timespec) error) time.Duration {
	read := func(clock int32) func() (time.Duration, bool) {
		return func() (time.Duration, bool) {
			var t unix.Timespec
			err := gettime(clock, &t)
			return time.Duration(t.Nano()), err == nil
		}
	}
	return ahead(read(clockStands), read(clockGoesOn))
}
