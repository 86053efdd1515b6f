package storetest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"gururmm/operator"
	"gururmm/server/store"
	"gururmm/wire"
)

// Grow has st hold what a fleet leaves in some time, in each of its tables, with what is
// rare: agents that were removed, output with gaps and of any byte.
func Grow(t *testing.T, st store.Store) {
	r := &rig{Store: st}
	ctx := t.Context()
	fleet := r.grownAgents(t, 60)
	r.many(t, 900, func(i int) error {
		at := epoch.Add(time.Duration(i) * time.Second)
		c := newCommand(fleet[i%len(fleet)], at)
		c.IdempotencyKey, c.Script = fmt.Sprint("key", i), fmt.Sprint("echo «é»\n# ", i)
		c, _, err := st.CreateCommand(ctx, c, grownStage(c.ID, wire.StageAccepted, at))
		if err != nil || i%10 == 0 {
			return err // it is pending
		}
		for n, offset := range []int64{0, 100 * int64(i%3)} {
			if _, err := st.AddOutput(ctx, c.ID, wire.Stdout, offset, bytes.Repeat([]byte{0, 255, byte(i), '\n'}, 20+n)); err != nil {
				return err
			}
		}
		if i%7 == 0 {
			c.CancelAt, c.CancelBy = &at, "ops"
		}
		end := at.Add(time.Minute)
		c.State, c.Reason, c.Attempts, c.AckedAt, c.EndedAt, c.ExitCode, c.Orphans = wire.StateCompleted, "why", 2, &at, &end, new(i%256), i%5 == 0
		_, err = st.SaveCommand(ctx, c, grownStage(c.ID, wire.StageClaimed, at), grownStage(c.ID, wire.StageAcked, end))
		return err
	})
	r.many(t, 300, func(i int) error {
		at := epoch.Add(time.Duration(i) * time.Second)
		agent := fleet[i%len(fleet)]
		id := fmt.Sprintf("d%05d", i)
		if err := st.CreateDirective(ctx, wire.Directive{ID: id, Agent: agent, ExpiresAt: at.Add(time.Hour)}, "ops", at); err != nil {
			return err
		}
		if i%3 > 0 {
			if _, err := st.AnswerDirective(ctx, agent, store.DirectiveAnswer{ID: id, State: wire.DirectiveDone, At: at, Detail: "well", Report: []byte(`{"n":1}`)}); err != nil {
				return err
			}
		}
		_, err := st.SaveBeacon(ctx, operator.Beacon{ReportID: fmt.Sprint("b", i), Agent: agent, ReceivedAt: at, Verdict: "ok", Sentence: "é",
			Report: json.RawMessage(`{"a":1}`), View: &wire.ServerView{}, Addr: "127.0.0.1:1"})
		st.NoteEvent(operator.AgentEvent{Agent: agent, At: at, Kind: operator.EventLink, To: fmt.Sprint("v", i), Reason: "why", Link: "07"})
		st.NoteEvent(operator.AgentEvent{Agent: agent, At: at, Kind: operator.EventPresence, To: fmt.Sprint("p", i), Reason: "why"})
		return err
	})
	for i := range 30 {
		r.grownRare(t, fleet, i)
	}
	// Last, for they take nothing more: the quarantined, one whose history stays, one of which nothing does.
	for i := range 15 {
		must(t, st.SetQuarantined(ctx, fleet[4*i], true))
	}
	must(t, st.RemoveAgent(ctx, fleet[0], "ops", epoch))
	must(t, st.RemoveAgent(ctx, fleet[1], "ops", epoch))
	must(t, st.PurgeAgent(ctx, fleet[1]))
	must(t, st.Flush(ctx))
}

func (r *rig) grownAgents(t *testing.T, n int) (ids []string) {
	for i := range n {
		a := r.agent(t, fmt.Sprintf("Host-%02d", i))
		load := float64(i)
		r.SaveMetrics(a.ID, wire.Metrics{At: epoch, Load1: &load})
		r.Seen(a.ID, epoch.Add(time.Duration(i)), "ping")
		must(t, r.ChangeTags(t.Context(), []string{a.ID}, []string{"web", fmt.Sprint("tag", i%5)}, nil))
		ids = append(ids, a.ID)
	}
	return ids
}

// grownRare makes the i-th of what people make by hand.
func (r *rig) grownRare(t *testing.T, fleet []string, i int) {
	ctx, at := t.Context(), epoch.UTC().Add(time.Duration(i)*time.Second)
	agent := fleet[2+i]
	must(t, r.CreateOperatorToken(ctx, fmt.Sprint("ops", i), store.HashToken(fmt.Sprint("ops", i)), at))
	_, err := r.OperatorToken(ctx, store.HashToken(fmt.Sprint("ops", i)), at.Add(time.Hour))
	must(t, err)
	must(t, r.Resolve(ctx, agent, []store.Resolution{{ID: fmt.Sprintf("r%02d", i), Agent: agent, Kept: wire.Copy{Instance: "i1"}, Other: wire.Copy{Instance: "i2"}, By: "ops", At: at}}))
	must(t, r.CreateReenrollToken(ctx, store.HashToken(fmt.Sprint("again", i)), operator.EnrollToken{ID: fmt.Sprint("again", i), Site: "s", UsesLeft: 1, CreatedAt: at, ExpiresAt: at.Add(time.Hour)}, fmt.Sprintf("r%02d", i)))
	_, err = r.CreateBuild(ctx, operator.Build{PublishedBy: "ops", PublishedAt: at, Build: wire.Build{Version: fmt.Sprintf("v1.2.%d", i), OS: "linux", Arch: "amd64", Size: 7, SHA256: fmt.Sprint("ab", i), Signature: "untrusted\ncomment"}})
	must(t, err)
	b := operator.Bundle{ID: fmt.Sprint("b", i), Agent: agent, SHA256: "ab", Size: 60, Reason: "why", BeganAt: at}
	must(t, r.CreateBundle(ctx, b, 1<<30))
	if b.Held = 60; i%2 == 0 {
		b.CompletedAt = &at
	}
	must(t, r.SaveBundle(ctx, b))
	must(t, r.CreateRollout(ctx, store.Rollout{ID: fmt.Sprintf("roll%02d", i), Version: "v1.2.3", State: operator.RolloutActive, CreatedBy: "ops", CreatedAt: at,
		Plan: operator.RolloutPlan{Rings: []float64{1, 100}, MaxFailures: "5%", SoakMS: 1, Parallel: 2}},
		[]operator.RolloutAgent{{Agent: agent, Ring: 1, State: operator.RollWaiting}}))
	_, members := r.job(t, 3, at)
	r.begin(t, members[0], wire.StateFailed, at)
	must(t, r.AddStages(ctx, grownStage(members[0].Command, wire.StageClaimed, at)))
}

func grownStage(command string, stage wire.Stage, at time.Time) store.Stage {
	return store.Stage{Command: command, TraceEntry: operator.TraceEntry{Stage: stage, At: at, End: "server", Attempt: 1, Channel: "link", Link: "07", Note: "note"}}
}

// many does n things, some at a time: they share commits.
func (r *rig) many(t *testing.T, n int, do func(i int) error) {
	var wg sync.WaitGroup
	defer wg.Wait()
	const atOnce = 50
	for from := range atOnce {
		wg.Go(func() {
			for i := from; i < n; i += atOnce {
				if err := do(i); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// Answers is what st says to each question that lists something, by the question.
func Answers(t *testing.T, st store.Store) map[string]any {
	ctx, out := t.Context(), map[string]any{}
	put := func(question string) func(any, error) {
		return func(v any, err error) {
			if err != nil {
				t.Errorf("%s: %v", question, err)
			}
			out[question] = v
		}
	}
	agents, err := st.Agents(ctx)
	put("agents")(agents, err)
	removed, err := st.RemovedAgents(ctx)
	put("removed agents")(removed, err)
	put("enroll tokens")(st.EnrollTokens(ctx))
	put("operator tokens")(st.OperatorTokens(ctx))
	active, err := st.ActiveAgents(ctx)
	slices.Sort(active) // in no order
	put("active agents")(active, err)
	put("beacons")(st.Beacons(ctx, "", store.MaxList))
	put("builds")(st.Builds(ctx))
	put("bundles")(st.Bundles(ctx, ""))
	put("resolutions")(st.Resolutions(ctx, ""))
	put("tags")(st.AgentTags(ctx, ""))
	put("open jobs")(st.OpenJobs(ctx))
	put("open rollouts")(st.OpenRollouts(ctx))
	put("events")(st.AgentEvents(ctx, store.EventFilter{After: new(int64), Limit: store.MaxList}))
	put("all commands")(st.Commands(ctx, store.CommandFilter{Limit: store.MaxList}))
	put("pending commands")(st.Commands(ctx, store.CommandFilter{State: wire.StatePending, Limit: store.MaxList}))
	for _, a := range append(agents, removed...) {
		put("agent " + a.ID)(st.Agent(ctx, a.ID))
		put("directives of " + a.ID)(st.Directives(ctx, a.ID, store.MaxList))
		put("pending directives of " + a.ID)(st.PendingDirectives(ctx, a.ID, epoch, epoch))
		put("last result of " + a.ID)(st.LastResult(ctx, a.ID))
		put("active of " + a.ID)(st.ActiveCommands(ctx, a.ID))
		commands, err := st.Commands(ctx, store.CommandFilter{Agent: a.ID, Limit: store.MaxList})
		put("commands of "+a.ID)(commands, err)
		for _, c := range commands[:min(5, len(commands))] {
			put("command " + c.ID)(st.Command(ctx, c.ID))
			put("stages of " + c.ID)(st.Stages(ctx, c.ID, 0))
			put("output of " + c.ID)(st.ReadOutput(ctx, c.ID, wire.Stdout, 0, 1<<20))
		}
	}
	jobs, err := st.Jobs(ctx, store.MaxList)
	put("jobs")(jobs, err)
	for _, j := range jobs {
		put("counts of " + j.ID)(st.CountJob(ctx, j.ID))
		put("agents of " + j.ID)(st.JobAgents(ctx, j.ID, operator.JobAgentFilter{Limit: operator.MaxJobPage}))
	}
	rollouts, err := st.Rollouts(ctx, store.MaxList)
	put("rollouts")(rollouts, err)
	for _, v := range rollouts {
		put("agents of " + v.ID)(st.RolloutAgents(ctx, v.ID))
	}
	for i := range 300 {
		id := fmt.Sprintf("d%05d", i)
		if found, err := st.FindDirectives(ctx, id); err == nil && len(found) == 1 {
			put("directive " + id)(st.Directive(ctx, id))
		}
	}
	return out
}
