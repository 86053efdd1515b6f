package uptime

import (
	"time"

	"golang.org/x/sys/unix"
)

// The kernel moves kern.boottime with the clock, so that the difference stands.
func get() (time.Duration, bool) {
	boot, err := unix.SysctlTimeval("kern.boottime")
	if err != nil {
		return 0, false
	}
	return time.Since(time.Unix(boot.Unix())), true
}
