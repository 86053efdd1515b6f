// Package uptime tells how long this machine has been up, sleep included: unlike
// what the wall clock says of the time that has passed, nobody can set it.
package uptime

import "time"

// Get is the time since boot, sleep included; ok is false if it is not known.
func Get() (up time.Duration, ok bool) { return get() }
