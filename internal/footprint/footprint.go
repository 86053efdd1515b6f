// Package footprint keeps small what a process at rest takes: memory that it needs
// only for a moment, and wakes.
package footprint

import (
	"context"
	"runtime/debug"
	"time"
)

const (
	// first is how long a process gets to start; each wait is growth times the one
	// before, for the bursts of work that follow a start.
	first  = 3 * time.Second
	growth = 3
	// rarest is how often it goes on: about a thousand page faults, a few milliseconds.
	rarest = 10 * time.Minute
)

// Trim gives memory back until ctx ends, soon after the start and then ever
// more rarely: the heap that is free and, where the platform allows, the pages
// of the program's file that were touched. They stay in the page cache, shared,
// and come back when they are used.
func Trim(ctx context.Context) {
	wait := first
	t := time.NewTimer(wait)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			debug.FreeOSMemory()
			dropProgramPages()
			wait = min(growth*wait, rarest)
			t.Reset(wait)
		}
	}
}
