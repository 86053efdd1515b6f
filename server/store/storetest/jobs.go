package storetest

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"gururmm/operator"
	"gururmm/server/store"
	"gururmm/wire"
)

func tags(t *testing.T, r *rig) {
	a, b, gone := r.agent(t, "a"), r.agent(t, "b"), r.agent(t, "gone")
	must(t, r.RemoveAgent(t.Context(), gone.ID, "op", epoch))
	must(t, r.ChangeTags(t.Context(), []string{a.ID, b.ID}, []string{"web", "old"}, nil))
	must(t, r.ChangeTags(t.Context(), []string{a.ID}, []string{"web", "berlin"}, []string{"old", "never"}))
	many := make([]string, operator.MaxTags)
	for i := range many {
		many[i] = fmt.Sprint("t", i)
	}
	for what, change := range map[string]struct {
		agents, add []string
		want        error
	}{
		"one that is not there":      {[]string{a.ID, "nobody"}, []string{"x"}, store.ErrNotFound},
		"one that was removed":       {[]string{a.ID, gone.ID}, []string{"x"}, store.ErrNotFound},
		"more than one agent's room": {[]string{a.ID}, many, store.ErrNoRoom},
	} {
		if err := r.ChangeTags(t.Context(), change.agents, change.add, nil); err == nil {
			t.Errorf("%s was taken", what)
		} else {
			want(t, err, change.want)
		}
	}
	all, err := r.AgentTags(t.Context(), "")
	must(t, err)
	if len(all) != 2 || !slices.Equal(all[a.ID], []string{"berlin", "web"}) || !slices.Equal(all[b.ID], []string{"old", "web"}) {
		t.Fatalf("tags are %v", all)
	}
	only, err := r.AgentTags(t.Context(), a.ID)
	must(t, err)
	if len(only) != 1 || !slices.Equal(only[a.ID], all[a.ID]) {
		t.Fatalf("tags of one are %v", only)
	}
	must(t, r.ChangeTags(t.Context(), []string{b.ID}, many[:30], nil)) // up to the bound
	must(t, r.RemoveAgent(t.Context(), b.ID, "op", epoch))
	must(t, r.PurgeAgent(t.Context(), b.ID))
	if all, err = r.AgentTags(t.Context(), ""); err != nil || len(all) != 1 {
		t.Fatalf("after a purge: %v, %v", all, err)
	}
}

// job stores one of as many agents.
func (r *rig) job(t *testing.T, agents int, at time.Time) (store.Job, []store.JobMember) {
	t.Helper()
	j := store.Job{IdempotencyKey: wire.NewID(), Job: operator.Job{
		ID: wire.NewID(), Pick: operator.Pick{Tags: []string{"web"}, Except: []string{"x"}}, Shell: wire.ShellSh, Script: "true", TimeoutMS: 1, MaxOutput: 2,
		AtOnce: 3, StopAfterFailures: "5%", State: operator.JobRunning, CreatedBy: "ops", CreatedAt: at.UTC(), ExpiresAt: at.UTC().Add(time.Hour), Endpoints: agents,
	}}
	members := make([]store.JobMember, agents)
	for i := range members {
		members[i] = store.JobMember{N: i + 1, Agent: r.agent(t, fmt.Sprint("host-", i)).ID, Command: wire.NewID()}
	}
	stored, created, err := r.CreateJob(t.Context(), j, members)
	must(t, err)
	if !created || !reflect.DeepEqual(stored, j) {
		t.Fatalf("created %v, stored\n%+v, want\n%+v", created, stored, j)
	}
	return j, members
}

// begin gives a member its command, in that state.
func (r *rig) begin(t *testing.T, m store.JobMember, state wire.State, at time.Time) {
	t.Helper()
	c := newCommand(m.Agent, at)
	c.ID = m.Command
	c, _, err := r.CreateCommand(t.Context(), c, store.Stage{Command: c.ID, TraceEntry: operator.TraceEntry{Stage: wire.StageAccepted, At: at, End: "server"}})
	must(t, err)
	if c.State = state; state.Terminal() {
		c.EndedAt, c.Reason, c.ExitCode = &at, "why", new(7)
	}
	_, err = r.SaveCommand(t.Context(), c)
	must(t, err)
}

func places(members []store.JobMember) string {
	var all []string
	for _, m := range members {
		all = append(all, fmt.Sprint(m.N))
	}
	return strings.Join(all, " ")
}

func jobs(t *testing.T, r *rig) {
	j, members := r.job(t, 7, epoch)
	again := j
	again.ID, again.Script = wire.NewID(), "false"
	stored, created, err := r.CreateJob(t.Context(), again, members)
	must(t, err)
	if created || stored.ID != j.ID {
		t.Fatalf("the same key made %s, created %v", stored.ID, created)
	}
	again.IdempotencyKey, again.ID = "", j.ID
	_, _, err = r.CreateJob(t.Context(), again, nil)
	want(t, err, store.ErrConflict)
	again.ID = wire.NewID()
	_, _, err = r.CreateJob(t.Context(), again, []store.JobMember{{N: 1, Agent: "nobody", Command: wire.NewID()}})
	want(t, err, store.ErrNotFound)
	_, err = r.Job(t.Context(), again.ID) // in the same write
	want(t, err, store.ErrNotFound)

	r.begin(t, members[0], wire.StateCompleted, epoch)
	r.begin(t, members[1], wire.StateFailed, epoch)
	r.begin(t, members[2], wire.StateRunning, epoch)
	r.begin(t, members[4], wire.StatePending, epoch)
	members[5].Reason = "it is quarantined"
	must(t, r.LeaveOut(t.Context(), j.ID, members[5]))
	members[5].Reason = "another"
	must(t, r.LeaveOut(t.Context(), j.ID, members[5]))
	waiting, err := r.WaitingMembers(t.Context(), j.ID, 0, 10)
	must(t, err)
	behind, err := r.WaitingMembers(t.Context(), j.ID, 4, 10)
	must(t, err)
	if places(waiting) != "4 7" || places(behind) != "7" || waiting[0].Agent != members[3].Agent || waiting[0].Command != members[3].Command {
		t.Errorf("waiting are %+v, behind the fourth %+v", waiting, behind)
	}
	counts, err := r.CountJob(t.Context(), j.ID)
	must(t, err)
	if want := (operator.JobCounts{Waiting: 2, Pending: 1, Running: 1, Completed: 1, Failed: 1, LeftOut: 1}); counts != want || counts.Total() != 7 {
		t.Errorf("counted %+v, want %+v", counts, want)
	}
	parts, err := r.JobAgents(t.Context(), j.ID, operator.JobAgentFilter{})
	must(t, err)
	var said []string
	for _, p := range parts {
		said = append(said, fmt.Sprint(p.N, p.State, p.Reason, p.Command != "", p.ExitCode != nil, p.EndedAt != nil))
	}
	if got := strings.Join(said, "; "); len(parts) != 7 || got != "1completedwhytrue true true; 2failedwhytrue true true; 3runningtrue false false; 4waitingfalse false false; "+
		"5pendingtrue false false; 6left_outit is quarantinedfalse false false; 7waitingfalse false false" || parts[0].AgentName != "host-0" || parts[0].Agent != members[0].Agent {
		t.Errorf("parts are %s\n%+v", got, parts)
	}
	parts, err = r.JobAgents(t.Context(), j.ID, operator.JobAgentFilter{Unwell: true, After: 1, Limit: 1})
	must(t, err)
	if len(parts) != 1 || parts[0].N != 2 {
		t.Errorf("unwell are %+v", parts)
	}

	other, _ := r.job(t, 1, epoch.Add(time.Second))
	must(t, r.EndJob(t.Context(), other.ID, epoch.Add(time.Minute)))
	want(t, r.EndJob(t.Context(), other.ID, epoch), store.ErrNotFound)
	all, err := r.Jobs(t.Context(), 0)
	must(t, err)
	open, err := r.OpenJobs(t.Context())
	must(t, err)
	found, err := r.FindJobs(t.Context(), other.ID)
	must(t, err)
	if len(all) != 2 || all[0].ID != other.ID || all[0].State != operator.JobDone || !all[0].EndedAt.Equal(epoch.Add(time.Minute)) || len(open) != 1 || open[0].ID != j.ID || len(found) != 1 {
		t.Errorf("all %+v, open %+v, found %v", all, open, found)
	}
	if byKey, err := r.JobOfKey(t.Context(), j.IdempotencyKey); err != nil || byKey.ID != j.ID {
		t.Errorf("by its key: %+v, %v", byKey, err)
	}
	must(t, r.RemoveAgent(t.Context(), members[0].Agent, "op", epoch))
	must(t, r.PurgeAgent(t.Context(), members[0].Agent))
	if counts, err = r.CountJob(t.Context(), j.ID); err != nil || counts.Total() != 6 || counts.Completed != 0 {
		t.Errorf("after a purge: %+v, %v", counts, err)
	}
}

func jobsStopped(t *testing.T, r *rig) {
	j, members := r.job(t, 4, epoch)
	r.begin(t, members[0], wire.StateRunning, epoch)
	r.begin(t, members[1], wire.StatePending, epoch)
	stop := func(reason string, cancelled, changes bool) {
		t.Helper()
		if changed, err := r.StopJob(t.Context(), j.ID, reason, cancelled); err != nil || changed != changes {
			t.Errorf("%s: changed %v, %v", reason, changed, err)
		}
	}
	open := func(pending bool) string {
		t.Helper()
		m, err := r.OpenMembers(t.Context(), j.ID, pending, 10)
		must(t, err)
		return places(m)
	}
	stop("too many failed", false, true)
	stop("once more", false, false)
	if open(true) != "2" || open(false) != "1 2" {
		t.Errorf("not taken: %q, open: %q", open(true), open(false))
	}
	stop("cancelled", true, true)
	stop("cancelled again", true, false)
	if m, err := r.WaitingMembers(t.Context(), j.ID, 0, 10); err != nil || len(m) != 0 {
		t.Errorf("waiting: %+v, %v", m, err)
	}
	got, err := r.Job(t.Context(), j.ID)
	must(t, err)
	counts, err := r.CountJob(t.Context(), j.ID)
	must(t, err)
	if got.State != operator.JobStopping || got.Reason != "too many failed" || !got.Cancelled || counts != (operator.JobCounts{Pending: 1, Running: 1, LeftOut: 2}) {
		t.Errorf("it is %+v, %+v", got, counts)
	}
	parts, err := r.JobAgents(t.Context(), j.ID, operator.JobAgentFilter{Unwell: true})
	must(t, err)
	if len(parts) != 2 || parts[0].Reason != "too many failed" {
		t.Errorf("left out: %+v", parts)
	}
	c, err := r.Command(t.Context(), members[0].Command)
	must(t, err)
	c.CancelAt = new(epoch)
	_, err = r.SaveCommand(t.Context(), c)
	must(t, err)
	if open(false) != "2" {
		t.Errorf("what was cancelled is not asked again: %q", open(false))
	}
	must(t, r.EndJob(t.Context(), j.ID, epoch))
	stop("too late", true, false)
}

func old(t *testing.T, r *rig) {
	a := r.agent(t, "a")
	long, then := epoch.Add(-time.Hour), epoch
	end := func(at time.Time, key string, output int) string {
		c := newCommand(a.ID, long)
		c.IdempotencyKey = key
		c, _, err := r.CreateCommand(t.Context(), c, store.Stage{Command: c.ID, TraceEntry: operator.TraceEntry{Stage: wire.StageAccepted, At: at, End: "server"}})
		must(t, err)
		if output > 0 {
			_, err := r.AddOutput(t.Context(), c.ID, wire.Stdout, 0, make([]byte, output))
			must(t, err)
		}
		c.State, c.EndedAt = wire.StateCompleted, &at
		_, err = r.SaveCommand(t.Context(), c)
		must(t, err)
		return c.ID
	}
	const many = 120
	for range many {
		end(long, "", 10)
	}
	large, larger := end(long, "", 9<<20), end(long, "key", 9<<20)
	kept := end(then, "other", 10)
	open := r.command(t, a.ID, long)
	j, members := r.job(t, 700, long)
	for _, m := range members[:3] {
		r.begin(t, m, wire.StateFailed, long)
	}
	going, parts := r.job(t, 1, long) // has not ended, but its command has
	r.begin(t, parts[0], wire.StateFailed, long)
	must(t, r.EndJob(t.Context(), j.ID, long))
	directive := func(id string, expires time.Time, answered *time.Time) {
		must(t, r.CreateDirective(t.Context(), wire.Directive{ID: id, Agent: a.ID, ExpiresAt: expires}, "ops", long.Add(-time.Hour)))
		if answered != nil {
			_, err := r.AnswerDirective(t.Context(), a.ID, store.DirectiveAnswer{ID: id, State: wire.DirectiveDone, At: *answered, Report: []byte(`{}`)})
			must(t, err)
		}
	}
	directive("silent", long, nil)
	directive("answered", long, &long)
	directive("late", long, &then)
	directive("open", then, nil)

	sum, calls := store.Deleted{}, 0
	for more := true; more; calls++ {
		got, err := r.DeleteOld(t.Context(), then)
		must(t, err)
		if got.Commands > 50 || calls > 50 {
			t.Fatalf("call %d deleted %+v", calls, got)
		}
		if calls == 0 { // the job is not shown half deleted
			if _, err := r.Job(t.Context(), j.ID); err == nil {
				t.Error("the job is still there")
			}
		}
		sum.Commands, sum.Jobs, sum.Directives, more = sum.Commands+got.Commands, sum.Jobs+got.Jobs, sum.Directives+got.Directives, got.More
	}
	if want := (store.Deleted{Commands: many + 2 + 3, Jobs: 1, Directives: 2}); sum != want || calls < 4 {
		t.Errorf("deleted %+v in %d calls, want %+v", sum, calls, want)
	}
	left, err := r.Commands(t.Context(), store.CommandFilter{Limit: store.MaxList})
	must(t, err)
	var still []string
	for _, c := range left {
		still = append(still, c.ID)
	}
	slices.Sort(still)
	if want := slices.Sorted(slices.Values([]string{kept, open.ID, parts[0].Command})); !slices.Equal(still, want) {
		t.Errorf("left are %v, want %v", still, want)
	}
	for _, id := range []string{large, larger} {
		if s, err := r.Stages(t.Context(), id, 0); err != nil || len(s) != 0 {
			t.Errorf("stages %v, %v", s, err)
		}
		_, err := r.ReadOutput(t.Context(), id, wire.Stdout, 0, 1)
		want(t, err, store.ErrNotFound)
	}
	if c, err := r.CountJob(t.Context(), going.ID); err != nil || c.Failed != 1 {
		t.Errorf("a job that goes on: %+v, %v", c, err)
	}
	for id, there := range map[string]bool{"silent": false, "answered": false, "late": true, "open": true} {
		if _, err := r.Directive(t.Context(), id); (err == nil) != there {
			t.Errorf("order %s: %v", id, err)
		}
	}
	// A key goes with its command: now it makes another one.
	again := newCommand(a.ID, then)
	again.IdempotencyKey = "key"
	_, created, err := r.CreateCommand(t.Context(), again)
	must(t, err)
	if !created {
		t.Error("a key outlives its command")
	}
}
