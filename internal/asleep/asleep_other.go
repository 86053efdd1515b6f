//go:build !linux

package asleep

import "time"

var started = time.Now()

// Certain: a step of the wall clock is not taken for a sleep.
const Certain = false

// total is by how much the wall clock has outrun the monotonic one since the
// start: a sleep where the latter stands still then, or somebody setting the
// time, which is taken for one: the link is merely asked whether it still lives.
func total() time.Duration {
	now := time.Now()
	return now.Round(0).Sub(started.Round(0)) - now.Sub(started)
}
