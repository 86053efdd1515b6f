package uptime

import (
	"time"

	"golang.org/x/sys/windows"
)

func get() (time.Duration, bool) { return windows.DurationSinceBoot(), true }
