package rollout

import (
	"errors"
	"slices"
	"sync/atomic"
	"testing"

	"gururmm/operator"
	"gururmm/server/store"
	"gururmm/wire"
)

// An operator begins, stops and resumes a rollout at a node that does not lead; the one that
// leads carries it on, and so does the next one that leads.
func TestRolloutOfSeveralNodes(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, r *rig) {
		r.stop()
		var leader atomic.Int32
		nodes := make([]*rig, 2)
		for i := range nodes {
			nodes[i] = &rig{t: t, st: r.st, orders: r.orders, known: r.known, agents: r.agents, leads: func() bool { return leader.Load() == int32(i) }}
			nodes[i].start()
		}
		r.stop = func() {
			nodes[0].stop()
			nodes[1].stop()
		}
		lead, other := nodes[0], nodes[1]
		id := other.roll(func(n *operator.NewRollout) { n.Rings = []float64{100} }).ID
		pass()
		open := lead.waiting()
		if len(open) != 3 {
			t.Fatalf("the leader ordered %d", len(open))
		}
		lead.tell(open[0], wire.DirectiveAccepted, "")
		pass()
		if s := other.status(id); s.Rings[0].Running != 1 || s.Rings[0].Ordered != 2 {
			t.Errorf("the other one shows %+v", s.Rings)
		}
		if s, err := other.Stop(t.Context(), id, "ops"); err != nil || s.State != operator.RolloutStopped {
			t.Fatalf("%+v, %v", s, err)
		}
		pass()
		if left := lead.waiting(); len(left) != 1 {
			t.Errorf("the leader goes on: %+v", left)
		}
		leader.Store(1)
		pass()
		if s, err := lead.Resume(t.Context(), id, "ops", operator.ResumeRollout{}); err != nil || s.State != operator.RolloutActive {
			t.Fatalf("%+v, %v", s, err)
		}
		pass()
		for range 3 {
			for _, d := range other.waiting() {
				other.tell(d, wire.DirectiveDone, "runs")
				f := other.fact(d.Agent)
				f.Version = "v1.2.3"
				other.know(d.Agent, f)
			}
			pass()
		}
		if s := lead.status(id); s.Rings[0].Done != 3 || s.State != operator.RolloutDone {
			t.Errorf("in the end: %s, %+v", s.State, s.Rings)
		}
		for _, agent := range r.agents {
			all, err := r.st.Directives(t.Context(), agent, 0)
			r.must(err)
			if slices.ContainsFunc(all, func(d operator.Directive) bool { return d.EndedAt == nil }) || len(all) > 2 {
				t.Errorf("orders of %s: %+v", agent, all)
			}
		}
	})
}

// A change that another node came before is made of what is stored then.
func TestRolloutThatAnotherNodeChanges(t *testing.T) {
	inBubble(t, 2, func(t *testing.T, r *rig) {
		r.stop()
		r.leads = func() bool { return false }
		r.start()
		id := r.roll(nil).ID
		stored, err := r.st.Rollout(t.Context(), id)
		r.must(err)
		stale := stored
		stored.Reason = "changed"
		r.must(r.st.SaveRollout(t.Context(), stored))
		if err := r.st.SaveRollout(t.Context(), stale); !errors.Is(err, store.ErrConflict) {
			t.Errorf("over what another one stored: %v", err)
		}
		if s, err := r.Stop(t.Context(), id, "ops"); err != nil || s.State != operator.RolloutStopped {
			t.Errorf("%+v, %v", s, err)
		}
	})
}
