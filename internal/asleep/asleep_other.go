//go:build !linux && !darwin && !windows

package asleep

import "time"

const monotonicGoesOn = false

// Not known: what looks like a sleep by the wall clock may be somebody setting it.
func total() time.Duration { return 0 }
