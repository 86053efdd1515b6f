// Package asleep tells how long this machine has been suspended: time in which
// nothing here could run, so that no silence of that time means anything.
package asleep

import "time"

// Total is how long this machine has slept, since some moment that stays the same
// while the process runs: compare two values. Where the platform does not tell it
// from somebody setting the time, that counts too (see [Certain]).
func Total() time.Duration { return total() }
