package storetest

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"gururmm/operator"
	"gururmm/server/store"
	"gururmm/wire"
)

func commands(t *testing.T, r *rig) {
	a := r.agent(t, "host")
	c := r.command(t, a.ID, epoch)
	if c.AgentName != "host" || c.CreatedAt.Location() != time.UTC || !c.CreatedAt.Equal(epoch) || c.AckedAt != nil || c.ExitCode != nil || c.Rev == 0 {
		t.Fatalf("stored %+v", c)
	}
	_, _, err := r.CreateCommand(t.Context(), newCommand("nobody", epoch))
	want(t, err, store.ErrNotFound)
	_, err = r.Command(t.Context(), "nothing")
	want(t, err, store.ErrNotFound)

	end, code := epoch.Add(time.Second), 0
	c.State, c.Reason, c.Attempts, c.Channel, c.AckedAt, c.EndedAt, c.ExitCode = wire.StateCompleted, "r", 3, wire.ChannelOOB, &end, &end, &code
	c.StdoutLost, c.StderrLost, c.Orphans, c.CancelAt, c.CancelBy = 7, 8, true, &end, "me"
	_, err = r.SaveCommand(t.Context(), c)
	must(t, err)
	got, err := r.Command(t.Context(), c.ID)
	must(t, err)
	if got.State != c.State || got.Reason != "r" || got.Attempts != 3 || got.Channel != wire.ChannelOOB || !got.AckedAt.Equal(end) || !got.EndedAt.Equal(end) ||
		*got.ExitCode != 0 || got.StdoutLost != 7 || got.StderrLost != 8 || !got.Orphans || !got.CancelAt.Equal(end) || got.CancelBy != "me" || got.Script != "true" {
		t.Fatalf("got %+v", got)
	}
	last, err := r.LastResult(t.Context(), a.ID)
	must(t, err)
	if last == nil || !last.Equal(end) {
		t.Fatalf("last result %v", last)
	}
	if last, err := r.LastResult(t.Context(), "nobody"); err != nil || last != nil {
		t.Fatalf("last result of nobody: %v %v", last, err)
	}

	b := r.agent(t, "other")
	second := r.command(t, b.ID, epoch.Add(time.Minute))
	for _, test := range []struct {
		f    store.CommandFilter
		want []string
	}{
		{store.CommandFilter{}, []string{second.ID, c.ID}},
		{store.CommandFilter{Limit: 1}, []string{second.ID}},
		{store.CommandFilter{Agent: a.ID}, []string{c.ID}},
		{store.CommandFilter{State: wire.StatePending}, []string{second.ID}},
		{store.CommandFilter{State: wire.StatePending, Agent: a.ID}, nil},
	} {
		list, err := r.Commands(t.Context(), test.f)
		must(t, err)
		if got := ids(list); !slices.Equal(got, test.want) {
			t.Errorf("%+v lists %v, want %v", test.f, got, test.want)
		}
	}

	twin := newCommand(b.ID, epoch)
	twin.ID = "00000000" + second.ID[8:] // ends as second does
	_, _, err = r.CreateCommand(t.Context(), twin)
	must(t, err)
	for ref, want := range map[string][]string{
		c.ID: {c.ID}, c.ID[:len(c.ID)-1]: {c.ID}, c.ID[24:]: {c.ID}, strings.ToUpper(c.ID[20:]): {c.ID},
		second.ID[24:]: {twin.ID, second.ID}, c.ID[31:]: nil, "%%%%%%": nil, "______": nil,
	} {
		found, err := r.FindCommands(t.Context(), ref)
		if must(t, err); !slices.Equal(found, want) {
			t.Errorf("%s names %v, want %v", ref, found, want)
		}
	}
}

func ids(list []store.Command) []string {
	var out []string
	for _, c := range list {
		out = append(out, c.ID)
	}
	return out
}

func idempotency(t *testing.T, r *rig) {
	a, b := r.agent(t, "a"), r.agent(t, "b")
	var wg sync.WaitGroup
	got := make([]string, 10)
	var made [10]bool
	for i := range got {
		wg.Go(func() {
			c := newCommand(a.ID, epoch)
			c.IdempotencyKey = "k"
			c, created, err := r.CreateCommand(t.Context(), c, store.Stage{Command: c.ID, TraceEntry: operator.TraceEntry{Stage: wire.StageAccepted, At: epoch, End: "server"}})
			if err != nil {
				t.Error(err)
			}
			got[i], made[i] = c.ID, created
		})
	}
	wg.Wait()
	n := 0
	for i := range got {
		if made[i] {
			n++
		}
		if got[i] != got[0] {
			t.Fatalf("two commands for one key: %v", got)
		}
	}
	if n != 1 {
		t.Fatalf("created %d times", n)
	}
	c := newCommand(b.ID, epoch)
	c.IdempotencyKey = "k"
	if _, created, err := r.CreateCommand(t.Context(), c); err != nil || !created {
		t.Fatalf("another agent's command was taken for the same: %v", err)
	}
}

func revisions(t *testing.T, r *rig) {
	c := r.command(t, r.agent(t, "a").ID, epoch)
	stale := c
	c.State = wire.StateRunning
	rev, err := r.SaveCommand(t.Context(), c)
	must(t, err)
	stale.State = wire.StateCancelled
	_, err = r.SaveCommand(t.Context(), stale, store.Stage{Command: c.ID, TraceEntry: operator.TraceEntry{Stage: "cancel", At: epoch, End: "server"}})
	want(t, err, store.ErrConflict)
	got, err := r.Command(t.Context(), c.ID)
	must(t, err)
	if got.State != wire.StateRunning || got.Rev != rev {
		t.Fatalf("got %+v", got)
	}
	if list, err := r.Stages(t.Context(), c.ID, 0); err != nil || len(list) != 0 {
		t.Fatalf("stages of a refused change: %v %v", list, err)
	}
}

func active(t *testing.T, r *rig) {
	a := r.agent(t, "a")
	young, old, ended := r.command(t, a.ID, epoch.Add(time.Second)), r.command(t, a.ID, epoch), r.command(t, a.ID, epoch)
	old.State = wire.StateRunning
	_, err := r.SaveCommand(t.Context(), old)
	must(t, err)
	ended.State = wire.StateExpired
	_, err = r.SaveCommand(t.Context(), ended)
	must(t, err)
	list, err := r.ActiveCommands(t.Context(), a.ID)
	must(t, err)
	if got := ids(list); !slices.Equal(got, []string{old.ID, young.ID}) {
		t.Fatalf("active are %v", got)
	}
	if list[0].Script != "" {
		t.Fatal("scripts ride along")
	}
	agents, err := r.ActiveAgents(t.Context())
	must(t, err)
	if !slices.Equal(agents, []string{a.ID}) {
		t.Fatalf("active agents are %v", agents)
	}
}

func stages(t *testing.T, r *rig) {
	c := r.command(t, r.agent(t, "a").ID, epoch)
	s := func(stage wire.Stage, attempt int, note string, at time.Time) store.Stage {
		return store.Stage{Command: c.ID, TraceEntry: operator.TraceEntry{
			Stage: stage, At: at, End: "server", Attempt: attempt, Channel: wire.ChannelLink, Link: "00ff", Note: note}}
	}
	must(t, r.AddStages(t.Context()))
	must(t, r.AddStages(t.Context(), s(wire.StageClaimed, 1, "", epoch), s(wire.StageWritten, 1, "", epoch.Add(time.Second))))
	must(t, r.AddStages(t.Context(), s(wire.StageClaimed, 1, "", epoch.Add(time.Hour)), s(wire.StageClaimed, 2, "", epoch), s(wire.StageClaimed, 2, "x", epoch)))
	proof := operator.Proof{Verdict: "link.text.lost", End: "server", Text: 3, Written: 3, Read: 2, Pings: 2, First: epoch.UTC().Truncate(time.Microsecond), Last: epoch.UTC().Truncate(time.Microsecond)}
	lost := s("lost", 3, "y", epoch)
	lost.Proof = &proof
	must(t, r.AddStages(t.Context(), lost))
	again := lost
	again.Proof = &operator.Proof{Pings: 9, First: epoch, Last: epoch}
	must(t, r.AddStages(t.Context(), again)) // what is told again keeps what was told first
	list, err := r.Stages(t.Context(), c.ID, 0)
	must(t, err)
	if len(list) != 5 || list[4].Proof == nil || *list[4].Proof != proof || !list[0].At.Equal(epoch) || list[0].Link != "00ff" || list[0].Channel != wire.ChannelLink || list[3].Note != "x" {
		t.Fatalf("got %+v", list)
	}
	if list[0].At.Location() != time.UTC {
		t.Fatal("times are not UTC")
	}
	rest, err := r.Stages(t.Context(), c.ID, list[1].Seq)
	must(t, err)
	if len(rest) != 3 || rest[0].Seq != list[2].Seq {
		t.Fatalf("after %d: %+v", list[1].Seq, rest)
	}
	all, err := r.Traced(t.Context(), c.Agent, epoch, 1)
	must(t, err)
	if len(all) != 1 || all[0].ID != c.ID || all[0].Script != c.Script || len(all[0].Stages) != 5 || all[0].Stages[4].Proof == nil || all[0].Stages[1] != list[1] {
		t.Fatalf("traced: %+v", all)
	}
	if all, err = r.Traced(t.Context(), c.Agent, epoch.Add(time.Second), 1); len(all) != 0 || err != nil {
		t.Fatalf("traced after it: %+v, %v", all, err)
	}
	want(t, r.AddStages(t.Context(), store.Stage{Command: "nothing", TraceEntry: operator.TraceEntry{Stage: "x", End: "server", At: epoch}}), store.ErrNotFound)
}

// stagesAtOnce tells of many commands at once, in part again and again: of each command every
// stage is told once, as it was told first, in order.
func stagesAtOnce(t *testing.T, r *rig) {
	a := r.agent(t, "a")
	var all sync.WaitGroup
	for seed := range uint64(12) {
		c := r.command(t, a.ID, epoch)
		all.Go(func() {
			rnd := rand.New(rand.NewPCG(seed, 2))
			var model []store.Stage
			for step := range 12 {
				var some []store.Stage
				for range rnd.IntN(4) {
					s := store.Stage{Command: c.ID, TraceEntry: operator.TraceEntry{
						Stage: wire.Stages[rnd.IntN(3)], Attempt: rnd.IntN(2), End: []string{"agent", "server"}[rnd.IntN(2)],
						Channel: []wire.Channel{wire.ChannelLink, ""}[rnd.IntN(2)], Note: []string{"", "\"ü\n\""}[rnd.IntN(2)],
						At: epoch.Add(time.Duration(step) * time.Second), Link: fmt.Sprint(step),
					}}
					some = append(some, s)
					if !slices.ContainsFunc(model, func(o store.Stage) bool {
						return o.Stage == s.Stage && o.Attempt == s.Attempt && o.End == s.End && o.Channel == s.Channel && o.Note == s.Note
					}) {
						s.Seq = int64(len(model) + 1)
						model = append(model, s)
					}
				}
				if err := r.AddStages(t.Context(), some...); err != nil {
					t.Error(err)
				}
			}
			after := rnd.IntN(len(model) + 1)
			got, err := r.Stages(t.Context(), c.ID, int64(after))
			if err != nil || !slices.EqualFunc(got, model[after:], func(x, y store.Stage) bool {
				return x.At.Equal(y.At) && x.Seq == y.Seq && x.Link == y.Link && x.Note == y.Note
			}) {
				t.Errorf("after %d of %d: %+v, %v", after, len(model), got, err)
			}
		})
	}
	all.Wait()
}

func stagesBounded(t *testing.T, r *rig) {
	c := r.command(t, r.agent(t, "a").ID, epoch)
	for i := range 120 {
		note := store.Stage{Command: c.ID, TraceEntry: operator.TraceEntry{Stage: "note", At: epoch, End: "server", Note: fmt.Sprint(i, strings.Repeat("x", 2000))}}
		must(t, r.AddStages(t.Context(), note))
	}
	list, err := r.Stages(t.Context(), c.ID, 0)
	must(t, err)
	if len(list) < 50 || len(list) > 70 {
		t.Fatalf("%d notes of 2 kB of one command", len(list))
	}
	if last := list[len(list)-1]; !strings.Contains(last.Note, "notes are missing") || last.End != "server" {
		t.Fatalf("it does not say that it is full: %+v", last)
	}
	c.State = wire.StateRunning // what is no note is told all the same
	_, err = r.SaveCommand(t.Context(), c, store.Stage{Command: c.ID, TraceEntry: operator.TraceEntry{Stage: wire.StageClaimed, At: epoch, End: "server"}})
	must(t, err)
	more, err := r.Stages(t.Context(), c.ID, 0)
	must(t, err)
	if len(more) != len(list)+1 {
		t.Fatalf("%d stages, then %d", len(list), len(more))
	}
}

func outputs(t *testing.T, r *rig) {
	a := r.agent(t, "a")
	for seed := range uint64(8) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		whole := make([]byte, 1+rnd.IntN(500))
		for i := range whole {
			whole[i] = byte(rnd.Uint32())
		}
		c := r.command(t, a.ID, epoch)
		known := make([]bool, len(whole))
		var have int64
		for step := 0; have < int64(len(whole)); step++ {
			from := rnd.IntN(len(whole))
			to := min(len(whole), from+rnd.IntN(100))
			if step > 60 { // then in order, to end
				from, to = int(have), len(whole)
			}
			got, err := r.AddOutput(t.Context(), c.ID, wire.Stdout, int64(from), whole[from:to])
			must(t, err)
			for i := from; i < to; i++ {
				known[i] = true
			}
			for have < int64(len(whole)) && known[have] {
				have++
			}
			if got != have {
				t.Fatalf("seed %d: %d bytes held, want %d", seed, got, have)
			}
		}
		got, err := r.ReadOutput(t.Context(), c.ID, wire.Stdout, 0, 1<<62)
		must(t, err)
		if !bytes.Equal(got, whole) {
			t.Fatalf("seed %d: bytes differ", seed)
		}
		from := rnd.IntN(len(whole))
		got, err = r.ReadOutput(t.Context(), c.ID, wire.Stdout, int64(from), 10)
		must(t, err)
		if !bytes.Equal(got, whole[from:min(len(whole), from+10)]) {
			t.Fatalf("seed %d: bytes from %d differ", seed, from)
		}
		if c, err = r.Command(t.Context(), c.ID); err != nil || c.StdoutBytes != int64(len(whole)) || c.StderrBytes != 0 {
			t.Fatalf("the command says %d bytes (%v)", c.StdoutBytes, err)
		}
	}
}

func outputPieces(t *testing.T, r *rig) {
	c := r.command(t, r.agent(t, "a").ID, epoch)
	const sent = 600 // more than are held
	for i := range int64(sent) {
		have, err := r.AddOutput(t.Context(), c.ID, wire.Stdout, 1+2*i, []byte("b"))
		if must(t, err); have != 0 {
			t.Fatalf("held %d without the first byte", have)
		}
	}
	// The gaps are filled in order, as an agent does that is told how far it is held.
	var have int64
	for i := range int64(sent) {
		var err error
		have, err = r.AddOutput(t.Context(), c.ID, wire.Stdout, have, []byte("a"))
		if must(t, err); i == 0 && have != 2 || have <= i {
			t.Fatalf("held %d after %d gaps were filled", have, i+1)
		}
	}
	if have >= 2*sent {
		t.Errorf("all of %d pieces beyond a gap were held", sent)
	}
}

func outputGap(t *testing.T, r *rig) {
	c := r.command(t, r.agent(t, "a").ID, epoch)
	have, err := r.AddOutput(t.Context(), c.ID, wire.Stderr, 5, []byte("world"))
	must(t, err)
	if got, err := r.ReadOutput(t.Context(), c.ID, wire.Stderr, 0, 100); err != nil || have != 0 || len(got) != 0 {
		t.Fatalf("held %d, read %q, %v", have, got, err)
	}
	if have, err = r.AddOutput(t.Context(), c.ID, wire.Stderr, 0, []byte("helloXX")); err != nil || have != 10 {
		t.Fatalf("held %d, %v", have, err)
	}
	if got, err := r.ReadOutput(t.Context(), c.ID, wire.Stderr, 0, 100); err != nil || string(got) != "helloworld" {
		t.Fatalf("read %q, %v: the first bytes known must stay", got, err)
	}
	if _, err := r.AddOutput(t.Context(), c.ID, wire.Stdout, -1, []byte("x")); err == nil {
		t.Fatal("a negative offset was taken")
	}
	if _, err := r.AddOutput(t.Context(), c.ID, "other", 0, []byte("x")); err == nil {
		t.Fatal("an unknown stream was taken")
	}
	_, err = r.AddOutput(t.Context(), "nothing", wire.Stdout, 0, []byte("x"))
	want(t, err, store.ErrNotFound)
	_, err = r.ReadOutput(t.Context(), "nothing", wire.Stdout, 0, 1)
	want(t, err, store.ErrNotFound)
}
