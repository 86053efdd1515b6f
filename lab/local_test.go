//go:build unix

package lab_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"gururmm/agent"
	"gururmm/agent/history"
	"gururmm/selfcheck"
)

// person runs a command as somebody at the endpoint would; its exit code must be code.
// It gives what a pipe would get; of a command that fails, what is said of it.
func (s *scene) person(code int, args ...string) string {
	s.t.Helper()
	out, said, got, err := s.agent.Command(s.t.Context(), args...)
	if err != nil {
		s.t.Fatal(err)
	}
	if got != code {
		s.t.Errorf("gururmm-agent %s: exit code %d, want %d\n%s%s", strings.Join(args, " "), got, code, out, said)
	}
	if code != 0 {
		return said
	}
	return out
}

// doors asks at the second door by `beacon test`.
func (s *scene) doors() (r agent.DoorTest) {
	s.t.Helper()
	out := s.person(0, "beacon", "test", "--json")
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		s.t.Fatalf("%v: %s", err, out)
	}
	if len(r.Doors) != 1 || !r.Doors[0].OK || r.Doors[0].Took <= 0 {
		s.t.Errorf("the doors: %+v", r.Doors)
	}
	return r
}

// TestPersonAtTheEndpoint: what somebody at the machine may do with a running agent,
// and what still works with it stopped.
func TestPersonAtTheEndpoint(t *testing.T) {
	s := newScene(t)
	before := s.linkID(s.verified())
	began := time.Now()
	out := s.person(0, "reconnect", "--reason", "moved to another switch")
	if !strings.Contains(out, "A new link is verified") {
		t.Errorf("reconnect says: %s", out)
	}
	if now := s.status().Snapshot.Link; now.ID == before || now.Phase != selfcheck.PhaseVerified {
		t.Errorf("link %s is %s, was %s", now.ID, now.Phase, before)
	}
	if after := s.linkID(s.verified()); after == before {
		t.Errorf("the server still has link %s", after)
	}
	s.completed(s.submit(""))
	step := s.step(began, func(r selfcheck.StepRecord) bool { return r.Kind == selfcheck.StepReconnect })
	if !strings.Contains(step.Reason, "moved to another switch") {
		t.Errorf("the step's reason is %q", step.Reason)
	}

	before, began = s.linkID(s.verified()), time.Now()
	if out := s.person(0, "reconnect", "--alternative", "--no-wait", "--reason", "try the other network"); !strings.HasPrefix(out, "Ordered; not waited for.") {
		t.Errorf("reconnect --no-wait says: %s", out)
	}
	s.step(began, func(r selfcheck.StepRecord) bool {
		return r.Kind == selfcheck.StepAlternative && strings.Contains(r.Reason, "try the other network")
	})
	s.eventually("another link", func() (bool, error) { return s.linkID(s.verified()) != before, nil })

	s.eventually("the step in the history", func() (bool, error) {
		list, err := history.Read(s.agent.Dir, history.Filter{Kinds: []history.Kind{history.KindStep}})
		for _, e := range list.Events {
			if e.Step == selfcheck.StepReconnect && strings.Contains(e.Sentence, "moved to another switch") {
				return true, nil
			}
		}
		return false, err
	})

	recorded := time.Now()
	if r := s.doors(); !r.Guardian.Running || !r.Guardian.OK || r.Guardian.Door != r.Doors[0].URL {
		t.Errorf("with the agent running: %+v", r.Guardian)
	}
	s.beacon(recorded, selfcheck.CodeOK, selfcheck.CodeOKIdle)

	var policy agent.PolicyReport
	if err := json.Unmarshal([]byte(s.person(0, "policy", "show", "--json")), &policy); err != nil {
		t.Fatal(err)
	}
	in := map[string]agent.PolicyValue{}
	for _, v := range policy.Values {
		in[v.Name] = v
	}
	if dead, stable := in["dead_ms"], in["stable_ms"]; policy.Version != testPolicy().Version || policy.Source != "server" ||
		dead.Value != "4s" || dead.Default || dead.Means == "" || stable.Value != "1s" {
		t.Errorf("the policy in force: %+v", policy)
	}

	if err := s.agent.Guardian().Stop(); err != nil {
		t.Fatal(err)
	}
	if r := s.doors(); r.Guardian.Running || r.Guardian.OK {
		t.Errorf("with the agent stopped: %+v", r.Guardian)
	}
	for _, args := range [][]string{{"reconnect"}, {"policy", "show"}} {
		if out := s.person(1, args...); !strings.Contains(out, "is not running") {
			t.Errorf("%v, with the agent stopped: %s", args, out)
		}
	}
	if out := s.person(0, "events", "--kind", "guardian", "-n", "1"); !strings.Contains(out, "guardian stops") {
		t.Errorf("the last event of the guardian: %s", out)
	}
}
