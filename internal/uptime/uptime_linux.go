package uptime

import (
	"time"

	"golang.org/x/sys/unix"
)

// CLOCK_BOOTTIME goes on while the machine sleeps (clock_gettime(2)).
func get() (time.Duration, bool) {
	var boot unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot) != nil {
		return 0, false
	}
	return time.Duration(boot.Nano()), true
}
