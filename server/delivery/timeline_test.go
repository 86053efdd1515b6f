package delivery

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"gururmm/operator"
	"gururmm/server/store"
	"gururmm/wire"
)

// way is a command's way; off is how far the agent's clock is behind the server's.
func way(off time.Duration) operator.Trace {
	start := time.Date(2026, 11, 24, 3, 0, 0, 0, time.UTC)
	var t operator.Trace
	for i, s := range []struct {
		stage wire.Stage
		end   string
	}{
		{wire.StageAccepted, "server"}, {wire.StageClaimed, "server"}, {wire.StageRead, "agent"}, {wire.StageWritten, "server"},
		{wire.StageJournaled, "agent"}, {wire.StageAcked, "agent"}, {wire.StageAckRead, "server"},
		{wire.StageStarted, "agent"}, {wire.StageFinished, "agent"}, {wire.StageResultWritten, "agent"}, {wire.StageResultStored, "server"},
	} {
		e := operator.TraceEntry{Stage: s.stage, End: s.end, Attempt: min(i, 1), At: start.Add(time.Duration(i) * 10 * time.Millisecond)}
		if s.end == "agent" {
			e.At = e.At.Add(-off)
		}
		t.Entries = append(t.Entries, e)
	}
	return t
}

func stages(t operator.Trace) (out []wire.Stage) {
	for _, e := range t.Entries {
		out = append(out, e.Stage)
	}
	return out
}

func TestATraceReadsInOrderOfTimeWhateverTheAgentsClock(t *testing.T) {
	want := stages(way(0))
	for _, off := range []time.Duration{0, 3 * time.Hour, -3 * time.Hour, 200 * time.Millisecond, -45 * time.Second} {
		for name, behind := range map[string]*time.Duration{"measured": &off, "measured wrongly": new(off + time.Minute), "unknown": nil} {
			tr := way(off)
			slices.Reverse(tr.Entries)
			Timeline(&tr, behind)
			if got := stages(tr); !slices.Equal(got, want) {
				t.Errorf("clock off by %v, %s: %v", off, name, got)
			}
			if !slices.IsSortedFunc(tr.Entries, func(a, b operator.TraceEntry) int { return a.At.Compare(b.At) }) {
				t.Errorf("clock off by %v, %s: times go back", off, name)
			}
			for _, e := range tr.Entries {
				if (e.Told != nil) != (e.End == "agent" && off != 0) {
					t.Errorf("clock off by %v, %s: %s told %v", off, name, e.Stage, e.Told)
				}
			}
			if d := time.Duration(tr.AgentClockUS)*time.Microsecond - off; d.Abs() > 20*time.Millisecond {
				t.Errorf("clock off by %v, %s: moved by %v more", off, name, d)
			}
		}
	}
}

func TestATimelineWithOneEndOnlyStaysAsItIs(t *testing.T) {
	tr := operator.Trace{Entries: way(0).Entries[:2]}
	Timeline(&tr, new(time.Hour))
	if tr.AgentClockUS != 0 || len(tr.Entries) != 2 || tr.Entries[0].Stage != wire.StageAccepted {
		t.Errorf("%+v", tr)
	}
	tr = operator.Trace{Entries: way(time.Hour).Entries[2:3]} // nothing to hold it against
	Timeline(&tr, new(time.Hour))
	if tr.AgentClockUS != 0 {
		t.Errorf("%+v", tr)
	}
}

// What an agent makes up keeps no listing of its traces from fitting into an answer.
func TestTracesOfAnAgentFitIntoAnAnswer(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		const commands, each = 40, 1000
		for range commands {
			id := r.submit()
			var made []store.Stage
			for i := range each {
				made = append(made, store.Stage{Command: id, TraceEntry: operator.TraceEntry{Stage: StageNote, At: time.Now(), End: "server", Note: fmt.Sprint(i)}})
			}
			if err := r.st.AddStages(t.Context(), made...); err != nil {
				t.Fatal(err)
			}
		}
		all, err := r.s.Traces(t.Context(), r.agent, time.Time{}, 500)
		if err != nil || len(all) == 0 || len(all) == commands {
			t.Errorf("%d of %d traces, %v", len(all), commands, err)
		}
	})
}
