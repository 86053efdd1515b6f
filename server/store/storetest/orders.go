package storetest

import (
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	"gururmm/operator"
	"gururmm/server/store"
	"gururmm/wire"
)

func directives(t *testing.T, r *rig) {
	a := r.agent(t, "a")
	for i, id := range []string{"d1", "d2", "d3"} {
		d := wire.Directive{ID: id, Agent: a.ID, Kind: wire.DirectiveReconnect, Reason: "r", ExpiresAt: epoch.Add(time.Duration(i+1) * time.Minute)}
		must(t, r.CreateDirective(t.Context(), d, "ops", epoch.Add(time.Duration(i))))
	}
	want(t, r.CreateDirective(t.Context(), wire.Directive{ID: "d1", Agent: a.ID}, "ops", epoch), store.ErrConflict)
	want(t, r.CreateDirective(t.Context(), wire.Directive{ID: "d4", Agent: "nobody"}, "ops", epoch), store.ErrNotFound)
	pending := func(now time.Time) (ids []string) {
		t.Helper()
		list, err := r.PendingDirectives(t.Context(), a.ID, now, now.Add(-time.Minute))
		must(t, err)
		for _, d := range list {
			if d.Kind != wire.DirectiveReconnect || d.Reason != "r" {
				t.Fatalf("pending is %+v", d)
			}
			ids = append(ids, d.ID)
		}
		return ids
	}
	if got := pending(epoch.Add(time.Minute)); !slices.Equal(got, []string{"d2", "d3"}) {
		t.Fatalf("pending are %v", got)
	}
	must(t, r.DirectivesDelivered(t.Context(), []string{"d2", "nothing"}, epoch))
	if got := pending(epoch); !slices.Equal(got, []string{"d1", "d3"}) {
		t.Fatalf("pending are %v", got)
	}
	if got := pending(epoch.Add(time.Minute)); !slices.Equal(got, []string{"d2", "d3"}) {
		t.Fatalf("not answered in a minute: pending are %v", got)
	}
	d, err := r.Directive(t.Context(), "d2")
	must(t, err)
	if d.AgentName != "a" || d.CreatedBy != "ops" || d.DeliveredAt == nil || !d.DeliveredAt.Equal(epoch) || d.State != "" || d.AcceptedAt != nil {
		t.Fatalf("delivered: %+v", d)
	}
	for range 2 {
		changed, err := r.AnswerDirective(t.Context(), a.ID, store.DirectiveAnswer{ID: "d2", State: wire.DirectiveAccepted, At: epoch.Add(time.Second)})
		must(t, err)
		if !changed {
			t.Fatal("accepted: nothing changed")
		}
	}
	if got := pending(epoch.Add(time.Minute)); !slices.Equal(got, []string{"d3"}) {
		t.Fatalf("accepted: pending are %v", got)
	}
	for i, state := range []wire.DirectiveState{wire.DirectiveFailed, wire.DirectiveDone, wire.DirectiveAccepted} {
		changed, err := r.AnswerDirective(t.Context(), a.ID, store.DirectiveAnswer{
			ID: "d2", State: state, At: epoch.Add(-time.Hour), Code: wire.CodeBusy, Detail: string(state), Report: []byte(`{"a":1}`)})
		must(t, err)
		if changed != (i == 0) {
			t.Fatalf("%s after the end: changed %v", state, changed)
		}
	}
	d, err = r.Directive(t.Context(), "d2")
	must(t, err)
	if d.State != "failed" || d.Code != wire.CodeBusy || d.Detail != "failed" || string(d.Report) != `{"a":1}` ||
		!d.AcceptedAt.Equal(epoch.Add(time.Second)) || !d.EndedAt.Equal(d.CreatedAt) {
		t.Fatalf("failed: %+v", d)
	}
	_, err = r.AnswerDirective(t.Context(), r.agent(t, "b").ID, store.DirectiveAnswer{ID: "d1", State: wire.DirectiveDone, At: epoch})
	want(t, err, store.ErrNotFound)
	_, err = r.Directive(t.Context(), "nothing")
	want(t, err, store.ErrNotFound)
	found, err := r.FindDirectives(t.Context(), "d3")
	must(t, err)
	list, err := r.Directives(t.Context(), a.ID, 2)
	must(t, err)
	if len(found) != 1 || len(list) != 2 || list[0].ID != "d3" || list[1].ID != "d2" || list[1].Report != nil {
		t.Fatalf("found %v, listed %+v", found, list)
	}
	for i := range store.KeepDirectives + 10 { // d1 has expired by now, d2 has ended
		must(t, r.CreateDirective(t.Context(), wire.Directive{ID: fmt.Sprint("n", i), Agent: a.ID, ExpiresAt: epoch.Add(time.Hour)}, "ops", epoch.Add(time.Minute+time.Duration(i))))
	}
	_, err = r.Directive(t.Context(), "d1")
	want(t, err, store.ErrNotFound)
	_, err = r.Directive(t.Context(), "d2")
	want(t, err, store.ErrNotFound)
	_, err = r.Directive(t.Context(), "d3") // still open
	must(t, err)
	_, err = r.Directive(t.Context(), "n0")
	must(t, err)
}

func builds(t *testing.T, r *rig) {
	b := operator.Build{PublishedBy: "ops", PublishedAt: epoch.UTC(), Build: wire.Build{
		Version: "v1.2.3", OS: "linux", Arch: "amd64", Size: 7, SHA256: "ab", Signature: "untrusted\ncomment"}}
	for i := range 2 {
		created, err := r.CreateBuild(t.Context(), b)
		must(t, err)
		if created != (i == 0) {
			t.Fatalf("created %v the %d. time", created, i+1)
		}
	}
	other, again := b, b
	other.SHA256, again.Version = "cd", "v1.2.4"
	for _, c := range []operator.Build{other, again} { // another program of it; the same program as another
		_, err := r.CreateBuild(t.Context(), c)
		want(t, err, store.ErrConflict)
	}
	other.Arch = "arm64"
	_, err := r.CreateBuild(t.Context(), other)
	must(t, err)
	list, err := r.Builds(t.Context())
	must(t, err)
	if len(list) != 2 || list[0] != b || list[1] != other {
		t.Fatalf("listed %+v", list)
	}
	must(t, r.DeleteBuilds(t.Context(), "v1.2.3"))
	want(t, r.DeleteBuilds(t.Context(), "v1.2.3"), store.ErrNotFound)
}

func bundles(t *testing.T, r *rig) {
	a, other := r.agent(t, "a"), r.agent(t, "b")
	made := epoch.UTC().Add(-time.Hour)
	one := operator.Bundle{ID: "b1", Agent: a.ID, SHA256: "ab", Size: 60, Reason: "ordered", MadeAt: &made, BeganAt: epoch.UTC()}
	must(t, r.CreateBundle(t.Context(), one, 100))
	want(t, r.CreateBundle(t.Context(), one, 1000), store.ErrConflict)
	two := operator.Bundle{ID: "b2", Agent: other.ID, SHA256: "cd", Size: 41, BeganAt: epoch.UTC().Add(time.Second)}
	want(t, r.CreateBundle(t.Context(), two, 100), store.ErrNoRoom)
	two.Size = 40
	must(t, r.CreateBundle(t.Context(), two, 100))
	want(t, r.CreateBundle(t.Context(), operator.Bundle{ID: "b3", Agent: "nobody", BeganAt: epoch}, 1000), store.ErrNotFound)

	now := epoch.UTC().Add(time.Minute)
	one.Held, one.Complete, one.CompletedAt = 60, true, &now
	must(t, r.SaveBundle(t.Context(), one))
	want(t, r.SaveBundle(t.Context(), operator.Bundle{ID: "nothing"}), store.ErrNotFound)
	must(t, r.Close())
	r.Store = r.open()
	got, err := r.Bundle(t.Context(), "b1")
	must(t, err)
	if !reflect.DeepEqual(got, one) {
		t.Errorf("stored %+v, want %+v", got, one)
	}
	for agent, ids := range map[string][]string{"": {"b2", "b1"}, a.ID: {"b1"}, other.ID: {"b2"}, "nobody": nil} {
		list, err := r.Bundles(t.Context(), agent)
		must(t, err)
		var found []string
		for _, b := range list {
			found = append(found, b.ID)
		}
		if !slices.Equal(found, ids) {
			t.Errorf("of %q: %v, want %v", agent, found, ids)
		}
	}
	must(t, r.DeleteBundle(t.Context(), "b1"))
	want(t, r.DeleteBundle(t.Context(), "b1"), store.ErrNotFound)
	_, err = r.Bundle(t.Context(), "b1")
	want(t, err, store.ErrNotFound)
}

func rollouts(t *testing.T, r *rig) {
	a, b := r.agent(t, "a"), r.agent(t, "b")
	one := store.Rollout{ID: "r1", Version: "v1.2.3", State: operator.RolloutActive, CreatedBy: "ops", CreatedAt: epoch.UTC(),
		Plan: operator.RolloutPlan{Rings: []float64{1, 100}, MaxFailures: "5%", SoakMS: 1, Parallel: 2, AllowDowngrade: true, GraceMS: 3}}
	members := []operator.RolloutAgent{{Agent: b.ID, Ring: 1, State: operator.RollWaiting}, {Agent: a.ID, State: operator.RollWaiting}}
	must(t, r.CreateRollout(t.Context(), one, members))
	want(t, r.CreateRollout(t.Context(), one, nil), store.ErrConflict)
	want(t, r.CreateRollout(t.Context(), store.Rollout{ID: "r0", CreatedAt: epoch}, []operator.RolloutAgent{{Agent: "nobody"}}), store.ErrNotFound)
	two := one
	two.ID, two.CreatedAt = "r2", epoch.UTC().Add(time.Second)
	must(t, r.CreateRollout(t.Context(), two, nil))

	now := epoch.UTC().Add(time.Minute)
	one.State, one.Reason, one.Ring, one.SoakSince, one.ResumedAt, one.EndedAt = operator.RolloutDone, "why", 1, &now, &now, &now
	changed := operator.RolloutAgent{Agent: a.ID, State: operator.RollFailed, Directive: "d", OrderedAt: &now, EndedAt: &now, Detail: "broke", Attempts: 2, NotBefore: &now}
	one.Plan.MaxFailures = "3"
	want(t, r.SaveRollout(t.Context(), one, changed), store.ErrConflict) // not as it was read
	one.Rev = 1
	must(t, r.SaveRollout(t.Context(), one, changed))
	want(t, r.SaveRollout(t.Context(), one, changed), store.ErrConflict)
	want(t, r.SaveRollout(t.Context(), store.Rollout{ID: "nothing"}), store.ErrNotFound)
	got, err := r.Rollout(t.Context(), "r1")
	must(t, err)
	if fmt.Sprintf("%+v", got.Plan) != fmt.Sprintf("%+v", one.Plan) || got.State != one.State || got.Reason != "why" || got.Ring != 1 ||
		!got.SoakSince.Equal(now) || !got.ResumedAt.Equal(now) || !got.EndedAt.Equal(now) || got.CreatedBy != "ops" || !got.CreatedAt.Equal(epoch) || got.Rev != 2 {
		t.Fatalf("got %+v", got)
	}
	list, err := r.RolloutAgents(t.Context(), "r1")
	must(t, err)
	if len(list) != 2 || list[0].AgentName != "a" || list[0].State != operator.RollFailed || list[0].Directive != "d" || !list[0].OrderedAt.Equal(now) ||
		!list[0].EndedAt.Equal(now) || list[0].Detail != "broke" || list[0].Attempts != 2 || !list[0].NotBefore.Equal(now) || list[1].NotBefore != nil || list[1].AgentName != "b" || list[1].Ring != 1 || list[1].OrderedAt != nil {
		t.Fatalf("members %+v", list)
	}
	all, err := r.Rollouts(t.Context(), 0)
	must(t, err)
	open, err := r.OpenRollouts(t.Context())
	must(t, err)
	found, err := r.FindRollouts(t.Context(), "r2")
	must(t, err)
	if len(all) != 2 || all[0].ID != "r2" || len(open) != 1 || open[0].ID != "r2" || len(found) != 1 {
		t.Fatalf("all %+v, open %+v, found %v", all, open, found)
	}
	_, err = r.Rollout(t.Context(), "nothing")
	want(t, err, store.ErrNotFound)
}

func withdrawn(t *testing.T, r *rig) {
	a := r.agent(t, "a")
	for _, id := range []string{"d1", "d2"} {
		must(t, r.CreateDirective(t.Context(), wire.Directive{ID: id, Agent: a.ID, ExpiresAt: epoch.Add(time.Hour)}, "ops", epoch))
	}
	must(t, r.DirectivesDelivered(t.Context(), []string{"d2"}, epoch))
	back := store.DirectiveAnswer{ID: "d1", State: wire.DirectiveFailed, At: epoch, Detail: "not wanted"}
	must(t, r.WithdrawDirective(t.Context(), back))
	want(t, r.WithdrawDirective(t.Context(), back), store.ErrConflict)
	back.ID = "d2"
	want(t, r.WithdrawDirective(t.Context(), back), store.ErrConflict)
	list, err := r.PendingDirectives(t.Context(), a.ID, epoch, epoch)
	must(t, err)
	if len(list) != 1 || list[0].ID != "d2" {
		t.Fatalf("pending are %+v", list)
	}
}
