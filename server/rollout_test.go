package server

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"gururmm/operator"
	"gururmm/wire"
)

// updatable enrolls an endpoint of this platform and opens its link.
func (n *node) updatable(name string) (identity, *machine) {
	n.t.Helper()
	id := n.enroll(name)
	who := presence("i-"+name, "b-"+name, "f-"+name)
	who.Version, who.Platform = "v1.0.0", wire.Platform{OS: runtime.GOOS, Arch: runtime.GOARCH, Hostname: name}
	return id, n.link(id, who).awaitVerified()
}

// updateOf awaits the call, fetches the order, and gives its build.
func (n *node) updateOf(id identity, m *machine) wire.Directive {
	n.t.Helper()
	select {
	case <-m.called:
	case <-time.After(20 * time.Second):
		n.t.Fatal("not called")
	}
	for _, env := range n.fetch(id) {
		if d, err := wire.DecodePayload[wire.Directive](env); err == nil && d.Kind == wire.DirectiveUpdate && d.Build != nil {
			return d
		}
	}
	n.t.Fatal("called for no update")
	return wire.Directive{}
}

// An endpoint is called, fetches its order and the program, and tells what came of
// it; a second ring follows, and its failure ends the rollout.
func TestARolloutEndToEnd(t *testing.T) {
	r := newReleaser(t)
	n := start(t, false, r.trusted)
	c, b := n.client(), r.sign(t, "v1.2.3")
	if err := c.Publish(t.Context(), b, bytes.NewReader(r.data)); err != nil {
		t.Fatal(err)
	}
	machines := map[string]*machine{}
	ids := map[string]identity{}
	for _, name := range []string{"alpha", "beta", "gamma"} {
		id, m := n.updatable(name)
		ids[id.Agent], machines[id.Agent] = id, m
	}
	other := n.enroll("delta") // another platform's, by its enrollment
	if err := n.store.UpdatePresence(t.Context(), other.Agent, wire.Presence{Version: "v1.0.0", Platform: wire.Platform{OS: "plan9", Arch: "mips", Hostname: "delta"}}); err != nil {
		t.Fatal(err)
	}
	// What would be: nothing begins, and who expects another number begins nothing either.
	seen, err := c.Roll(t.Context(), operator.NewRollout{Version: "v1.2.3", Preview: true})
	if err != nil || seen.ID != "" || seen.Wanted() != 3 {
		t.Errorf("a preview: %+v, %v", seen, err)
	}
	if _, err := c.Roll(t.Context(), operator.NewRollout{Version: "v1.2.3", Expect: new(2)}); !isProblem(err, wire.ProblemConflict) {
		t.Errorf("another number than expected: %v", err)
	}
	if all, err := c.Rollouts(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("begun: %+v, %v", all, err)
	}
	one, err := c.Roll(t.Context(), operator.NewRollout{Version: "v1.2.3", Agents: []string{"alpha"}, Preview: true})
	if err != nil || one.Wanted() != 1 || len(one.Plan.OfAgents) != 1 || len(one.Plan.OfAgents[0]) != len(other.Agent) {
		t.Errorf("a preview of one: %+v, %v", one, err)
	}
	roll, err := c.Roll(t.Context(), operator.NewRollout{Version: "v1.2.3", RolloutPlan: operator.RolloutPlan{Rings: []float64{10, 100}, SoakMS: -1, GraceMS: 5000}})
	if err != nil {
		t.Fatal(err)
	}
	if len(roll.NoProgram) != 1 || !strings.Contains(roll.NoProgram[0], "plan9") || roll.Rings[0].Wanted != 1 || roll.Rings[1].Wanted != 2 || roll.CreatedBy != "first" {
		t.Errorf("begun: %+v", roll)
	}
	if _, err := c.Roll(t.Context(), operator.NewRollout{Version: "v1.2.3", Agents: []string{"alpha"}}); !isProblem(err, wire.ProblemConflict) {
		t.Errorf("a second one over the same endpoints: %v", err)
	}
	if _, err := c.RemoveBuilds(t.Context(), "v1.2.3"); !isProblem(err, wire.ProblemConflict) || !strings.Contains(err.Error(), roll.ID) {
		t.Errorf("its programs removed: %v", err)
	}

	status := func() operator.Rollout {
		t.Helper()
		s, err := c.Rollout(t.Context(), roll.ID)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	ordered := map[string]wire.Directive{}
	// serve has each endpoint that was ordered fetch; it answers as state says.
	serve := func(want int, state wire.DirectiveState, detail string) {
		t.Helper()
		await(t, fmt.Sprint(want, " endpoints are ordered"), func() bool {
			s := status()
			return s.Rings[s.Ring].Ordered == want
		})
		for agent, id := range ids {
			if _, known := ordered[agent]; known {
				continue
			}
			list, err := c.Directives(t.Context(), agent, 1)
			if err != nil {
				t.Fatal(err)
			}
			if len(list) == 0 {
				continue
			}
			d := n.updateOf(id, machines[agent])
			ordered[agent] = d
			if want := b; d.Build.GraceMS != 5000 || d.Build.Signature != want.Signature || d.Build.SHA256 != want.SHA256 || !strings.Contains(d.Reason, roll.ID) {
				t.Errorf("ordered %+v", d)
			}
			res := n.download(id, d.Build.SHA256, nil)
			res.Body.Close()
			if res.StatusCode != http.StatusOK {
				t.Errorf("its program: %s", res.Status)
			}
			n.fetch(id, sealed(t, wire.TypeDirectiveResult, wire.DirectiveResult{ID: d.ID, State: wire.DirectiveAccepted}),
				sealed(t, wire.TypeDirectiveResult, wire.DirectiveResult{ID: d.ID, State: state, Detail: detail}))
		}
	}
	serve(1, wire.DirectiveDone, "runs v1.2.3")
	serve(2, wire.DirectiveFailed, "it went back")
	await(t, "the rollout stops", func() bool { return status().State == operator.RolloutStopped })
	s := status()
	if s.Rings[0].Done != 1 || s.Rings[1].Failed != 2 || len(s.Failures) != 2 || s.Failures[0].Detail != "it went back" || !strings.Contains(s.Reason, "ring 2: 2 of 2 failed, 0 allowed") {
		t.Errorf("stopped: %+v", s)
	}
	first := s
	if all, err := c.Rollouts(t.Context()); err != nil || len(all) != 1 || all[0].ID != roll.ID {
		t.Errorf("listed %+v, %v", all, err)
	}
	if _, err := c.ResumeRollout(t.Context(), roll.ID[:30], operator.ResumeRollout{MaxFailures: "2"}); !isProblem(err, wire.ProblemConflict) || !strings.Contains(err.Error(), "none of its endpoints (2) runs it") {
		t.Errorf("resumed over a ring that nobody passed: %v", err)
	}
	if s, err = c.ResumeRollout(t.Context(), roll.ID[:30], operator.ResumeRollout{Retry: true}); err != nil || s.State != operator.RolloutActive {
		t.Errorf("resumed: %+v, %v", s, err)
	}
	for _, failed := range first.Failures {
		delete(ordered, failed.Agent)
	}
	serve(2, wire.DirectiveDone, "runs v1.2.3")
	await(t, "it ends", func() bool { return status().State == operator.RolloutDone })
	if _, err = c.StopRollout(t.Context(), roll.ID); !isProblem(err, wire.ProblemConflict) {
		t.Errorf("stopped after its end: %v", err)
	}
	if raw, err := json.Marshal(status()); err != nil || len(raw) == 0 {
		t.Error(err)
	}
}

func isProblem(err error, code string) bool {
	p, ok := errors.AsType[wire.Problem](err)
	return ok && p.Code == code
}
