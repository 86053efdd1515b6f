package server

import (
	"encoding/json"
	"net/http"
	"testing"
	"time"

	"gururmm/operator"
	"gururmm/wire"
)

// fetch asks by the second door as a guardian does, saying up first.
func (n *node) fetch(id identity, up ...wire.Envelope) []wire.Envelope {
	n.t.Helper()
	status, raw := n.post(id, "/v1/oob/poll", wire.PollRequest{Instance: "i1", Upstream: up})
	var poll wire.PollResponse
	if err := json.Unmarshal(raw, &poll); err != nil || status != http.StatusOK {
		n.t.Fatalf("poll: %d %s", status, raw)
	}
	return poll.Downstream
}

func sealed(t *testing.T, typ wire.Type, payload any) wire.Envelope {
	t.Helper()
	env, err := wire.Seal(typ, payload)
	if err != nil {
		t.Fatal(err)
	}
	return env
}

func TestADirectiveIsCalledForAndItsOutcomeTold(t *testing.T) {
	n := start(t, false, nil)
	id := n.enroll("alpha")
	m := n.link(id, presence("i1", "b1", "f1")).awaitVerified()
	d := operate[operator.Directive](n, "POST", "/v1/agents/"+id.Agent+"/directives", operator.NewDirective{Kind: wire.DirectiveRestartWorker, Reason: "why"})
	if d.State != operator.DirectiveWaiting || d.CreatedBy != "first" || d.AgentName != "machine-f1" {
		t.Errorf("ordered: %+v", d)
	}
	select {
	case <-m.called:
	case <-time.After(20 * time.Second):
		t.Fatal("the link was not called")
	}
	envs := n.fetch(id)
	if len(envs) != 1 || envs[0].Type != wire.TypeDirective {
		t.Fatalf("fetched %+v", envs)
	}
	await(t, "it is known as delivered", func() bool {
		return operate[operator.Directive](n, "GET", "/v1/directives/"+d.ID[:30], nil).State == operator.DirectiveDelivered
	})
	n.fetch(id, sealed(t, wire.TypeDirectiveResult, wire.DirectiveResult{ID: d.ID, State: wire.DirectiveDone, At: time.Now(), Detail: "restarted"}))
	list := operate[operator.List[operator.Directive]](n, "GET", "/v1/agents/"+id.Agent+"/directives?limit=5", nil).Items
	if len(list) != 1 || list[0].ID != d.ID || list[0].State != string(wire.DirectiveDone) || list[0].Detail != "restarted" || list[0].EndedAt == nil {
		t.Errorf("listed: %+v", list)
	}
	if status, _, raw := n.request("GET", n.Info().URL+"/v1/directives/"+wire.NewID(), n.Info().OperatorToken, nil); status != http.StatusNotFound {
		t.Errorf("one that never was: %d %s", status, raw)
	}
}

func TestARefusedDirectiveIsToldByTheNack(t *testing.T) {
	n := start(t, false, nil)
	id, other := n.enroll("alpha"), n.enroll("beta")
	d := operate[operator.Directive](n, "POST", "/v1/agents/alpha/directives", operator.NewDirective{Kind: wire.DirectiveRunProbes, Only: []string{"dns"}})
	nack := sealed(t, wire.TypeNack, wire.Nack{Code: wire.CodeBusy, ID: d.ID, Type: wire.TypeDirective, Detail: "one runs already"})
	if back := n.fetch(other, nack, sealed(t, wire.TypeDirectiveResult, wire.DirectiveResult{ID: d.ID, State: wire.DirectiveDone})); len(back) != 1 || back[0].Type != wire.TypeNack {
		t.Errorf("another agent's word: %+v", back)
	}
	n.fetch(id, nack)
	got := operate[operator.Directive](n, "GET", "/v1/directives/"+d.ID, nil)
	if got.State != string(wire.DirectiveFailed) || got.Code != wire.CodeBusy || got.Detail != "one runs already" || len(got.Only) != 1 {
		t.Errorf("%+v", got)
	}
}
