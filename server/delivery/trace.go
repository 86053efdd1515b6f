package delivery

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"gururmm/internal/moment"
	"gururmm/operator"
	"gururmm/server/store"
	"gururmm/wire"
)

// Trace gives a command's way, and in one sentence where it stopped.
func (s *Service) Trace(ctx context.Context, id string) (operator.Trace, error) {
	c, err := s.st.Command(ctx, id)
	if err != nil {
		return operator.Trace{}, err
	}
	stages, err := s.st.Stages(ctx, id, 0)
	if err != nil {
		return operator.Trace{}, err
	}
	why := ""
	if c.State == wire.StatePending {
		why = s.waitsFor(ctx, c.Agent)
	}
	return s.traceOf(c, stages, why), nil
}

const (
	// maxTraces bounds the traces of one listing, in bytes: its notes, and entryWeight for each entry.
	maxTraces   = 8 << 20
	entryWeight = 256
)

// Traces gives the ways of an agent's commands since then, the newest first, with the beginning
// of each script. Beyond what one answer may hold, the oldest are left out.
func (s *Service) Traces(ctx context.Context, agent string, since time.Time, limit int) ([]operator.Trace, error) {
	all, err := s.st.Traced(ctx, agent, since, limit)
	out, why, size := []operator.Trace{}, "", 0
	for _, c := range all {
		if c.State == wire.StatePending && why == "" {
			why = s.waitsFor(ctx, agent)
		}
		for _, st := range c.Stages {
			size += entryWeight + len(st.Note)
		}
		if size > maxTraces {
			break
		}
		out = append(out, s.traceOf(c.Command, c.Stages, why))
	}
	return out, err
}

func (s *Service) traceOf(c store.Command, stages []store.Stage, why string) operator.Trace {
	t := operator.Trace{Command: c.Command, Entries: make([]operator.TraceEntry, len(stages))}
	for i, st := range stages {
		t.Entries[i] = st.TraceEntry
	}
	inOrder(t.Entries)
	t.Stopped = stopped(t, s.o.Now(), why)
	return t
}

// waitsFor tells why an agent's pending commands are not offered just now. The door's state is
// the queue's own: asked for in its turn, and done without if that is long.
func (s *Service) waitsFor(ctx context.Context, agent string) string {
	ask, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	said := make(chan string, 1)
	if s.do(ask, agent, func() error { said <- s.doorState(agent); return nil }) == nil {
		return <-said
	}
	return "the server can't tell why just now"
}

func (s *Service) doorState(agent string) string {
	r := s.route(agent)
	if r == nil {
		return "delivery has stopped"
	}
	l, why := r.door()
	switch {
	case r.pollWaits():
		return "a poll of the agent is open"
	case l != nil:
		return "it is offered again with the agent's next sign of life"
	}
	return why.clause
}

// rank orders the stages of one attempt.
var rank = func() map[wire.Stage]int {
	out := map[wire.Stage]int{}
	for i, s := range wire.Stages {
		out[s] = i * 10
	}
	// A claim ends between what was written and what an agent might say after all.
	out[stageRefused] = out[wire.StageVerified] + 1
	out[StageLost] = out[wire.StageAckRead] + 1
	out[StageReleased] = out[wire.StageAckRead] + 2
	return out
}()

// inOrder sorts entries by attempt, then station: the two ends' clocks differ a
// little, and a way reads in the order it is walked. What is no station (a
// cancel, a note) comes after those of its attempt.
func inOrder(entries []operator.TraceEntry) {
	station := func(e operator.TraceEntry) int {
		if r, known := rank[e.Stage]; known {
			return r
		}
		return math.MaxInt
	}
	slices.SortStableFunc(entries, func(a, b operator.TraceEntry) int {
		return cmp.Or(cmp.Compare(a.Attempt, b.Attempt), cmp.Compare(station(a), station(b)), a.At.Compare(b.At))
	})
}

// stopped says in one sentence where a command is, or how it ended, and what
// proves it. why tells why a pending one is not offered.
func stopped(t operator.Trace, now time.Time, why string) string {
	c := t.Command
	switch c.State {
	case wire.StateCompleted:
		s := "Completed"
		if c.ExitCode != nil {
			s += fmt.Sprintf(" with exit code %d", *c.ExitCode)
		}
		if e := last(t.Entries, wire.StageResultStored); e != nil {
			s += fmt.Sprintf("; the result came by %s, %v after it was accepted", doorName(e.Channel), round(e.At.Sub(c.CreatedAt)))
		}
		return s + attempts(c.Attempts) + "."
	case wire.StatePending:
		if e := lastLoss(t.Entries); e != nil {
			return fmt.Sprintf("Waiting: attempt %d by %s was given back, %s; %s.", e.Attempt, doorName(e.Channel), e.Note, why)
		}
		return fmt.Sprintf("Waiting, never offered: %s.", why)
	case wire.StateRunning:
		return underWay(t, now)
	}
	s := "Ended as " + string(c.State)
	code := ""
	if c.ExitCode != nil {
		code = fmt.Sprintf("exit code %d", *c.ExitCode)
		s += " with " + code
	}
	if c.Reason != "" && c.Reason != code && c.Reason != string(c.State) { // said already
		s += ": " + c.Reason
	}
	return s + "."
}

func underWay(t operator.Trace, now time.Time) string {
	c := t.Command
	at := func(stage wire.Stage) *operator.TraceEntry { return last(t.Entries, stage) }
	if c.AckedAt != nil {
		if e := at(wire.StageStarted); e != nil {
			return fmt.Sprintf("Running at the agent since %s.", moment.UTC(e.At))
		}
		return fmt.Sprintf("Acknowledged %v ago by %s, no result yet.", round(now.Sub(*c.AckedAt)), doorName(c.Channel))
	}
	if e := at(wire.StageWritten); e != nil && e.Attempt == c.Attempts {
		return fmt.Sprintf("Written to %s %v ago (attempt %d), not acknowledged yet.", doorName(e.Channel), round(now.Sub(e.At)), e.Attempt)
	}
	if e := at(wire.StageClaimed); e != nil {
		return fmt.Sprintf("Taken by %s %v ago (attempt %d), not written yet.", doorName(e.Channel), round(now.Sub(e.At)), e.Attempt)
	}
	return "Taken by a door that left no trace."
}

func last(entries []operator.TraceEntry, stage wire.Stage) *operator.TraceEntry {
	for i := len(entries) - 1; i >= 0; i-- {
		if entries[i].Stage == stage {
			return &entries[i]
		}
	}
	return nil
}

// lastLoss is why the last attempt was given back: its proof, if there is one.
func lastLoss(entries []operator.TraceEntry) *operator.TraceEntry {
	var found *operator.TraceEntry
	for i := len(entries) - 1; i >= 0; i-- {
		e := &entries[i]
		if found != nil && e.Attempt != found.Attempt {
			break
		}
		if e.Stage == StageLost || e.Stage == StageReleased && found == nil {
			found = e
		}
	}
	return found
}

func attempts(n int) string {
	if n < 2 {
		return ""
	}
	return fmt.Sprintf(" (%d attempts)", n)
}

func round(d time.Duration) time.Duration {
	switch {
	case d > time.Minute:
		return d.Round(time.Second)
	case d > time.Second:
		return d.Round(10 * time.Millisecond)
	}
	return d.Round(100 * time.Microsecond)
}
