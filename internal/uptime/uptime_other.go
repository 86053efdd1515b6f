//go:build !linux && !darwin && !windows

package uptime

import "time"

func get() (time.Duration, bool) { return 0, false }
