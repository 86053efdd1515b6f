package delivery

import (
	"cmp"
	"slices"
	"time"

	"gururmm/operator"
	"gururmm/wire"
)

// Timeline puts a trace in order of time, on the server's clock. The agent's times are
// its own; they are moved only where they can't be true: nothing is read before it was
// claimed, nothing arrives before it was sent. behind is how far the agent's clock was
// measured to be behind the server's; nil: unknown. What was moved keeps its own time in
// Told, and the trace says by how much.
func Timeline(t *operator.Trace, behind *time.Duration) {
	if move := moved(t.Entries, behind); move != 0 {
		t.AgentClockUS = move.Microseconds()
		for i := range t.Entries {
			if e := &t.Entries[i]; e.End == "agent" {
				e.Told, e.At = new(e.At), e.At.Add(move)
			}
		}
	}
	slices.SortStableFunc(t.Entries, func(a, b operator.TraceEntry) int { return a.At.Compare(b.At) })
}

// moved is how much the agent's times must be moved to fit between the server's.
func moved(entries []operator.TraceEntry, behind *time.Duration) time.Duration {
	var least, most *time.Duration
	at := func(stage wire.Stage, attempt int) *operator.TraceEntry {
		i := slices.IndexFunc(entries, func(e operator.TraceEntry) bool { return e.Stage == stage && e.Attempt == attempt })
		if i < 0 {
			return nil
		}
		return &entries[i]
	}
	for _, e := range entries {
		if e.End != "agent" {
			continue
		}
		if claimed := at(wire.StageClaimed, e.Attempt); claimed != nil {
			if d := claimed.At.Sub(e.At); least == nil || d > *least {
				least = &d
			}
		}
		for after, heard := range map[wire.Stage]wire.Stage{wire.StageAcked: wire.StageAckRead, wire.StageResultWritten: wire.StageResultStored} {
			if e.Stage != after {
				continue
			}
			if h := at(heard, e.Attempt); h != nil {
				if d := h.At.Sub(e.At); most == nil || d < *most {
					most = &d
				}
			}
		}
	}
	fits := func(d time.Duration) bool { return (least == nil || d >= *least) && (most == nil || d <= *most) }
	switch {
	case fits(0):
		return 0
	case behind != nil && fits(*behind):
		return *behind
	case least != nil && most != nil:
		return (*least + *most) / 2
	}
	return *cmp.Or(least, most)
}
