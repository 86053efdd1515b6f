package server

import (
	"bufio"
	"bytes"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"gururmm/operator"
	"gururmm/wire"
)

// A ladder goes down the way of commands: by the link, and by the second door to an agent that
// is called for it. It is no command, and is kept among the agent's events.
func TestProbeOfTheWayOfCommands(t *testing.T) {
	n := start(t, false, nil)
	id := n.enroll("alpha")
	m := n.link(id, presence("i1", "b1", "f1")).awaitVerified()
	await(t, "verified", func() bool { return n.agent(id).Presence == "verified" })
	path := "/v1/agents/" + id.Agent
	ended := make(chan struct{})
	go func() { // its guardian
		defer close(ended)
		var envs []wire.Envelope
		for range 2 {
			// The next one is handed out with the answer to this one's, if it is there by then.
			if len(envs) == 0 {
				select {
				case <-m.called:
				case <-time.After(20 * time.Second):
					t.Error("it was not called")
					return
				}
				envs = n.fetch(id)
			}
			if len(envs) != 1 || envs[0].Type != wire.TypeProbe {
				t.Errorf("handed out: %+v", envs)
				return
			}
			cmd, err := wire.DecodePayload[wire.Command](envs[0])
			if err != nil {
				t.Error(err)
			}
			envs = n.fetch(id, sealed(t, wire.TypeCommandAck, wire.CommandAck{ID: cmd.ID, Pad: cmd.Pad}))
		}
		if len(envs) != 0 {
			t.Errorf("its last answer was answered: %+v", envs)
		}
	}()
	body, _ := json.Marshal(operator.NewProbe{Sizes: []int{2000, 600_00}})
	status, _, raw := n.request("POST", n.Info().URL+path+"/probe", n.Info().OperatorToken, body)
	<-ended
	if status != http.StatusOK {
		t.Fatalf("%d %s", status, raw)
	}
	var steps []string
	var p *operator.Probe
	for lines := bufio.NewScanner(bytes.NewReader(raw)); lines.Scan(); {
		var ev operator.ProbeEvent
		if err := json.Unmarshal(lines.Bytes(), &ev); err != nil {
			t.Fatal(err)
		}
		if ev.Step != nil {
			steps = append(steps, string(ev.Step.Channel)+" "+ev.Step.Kind+" "+ev.Step.State)
		}
		p = ev.Probe
	}
	if want := []string{"link ping passed", "link text passed", "link text passed", "oob text passed", "oob text passed"}; !slices.Equal(steps, want) {
		t.Errorf("steps: %q", steps)
	}
	if p == nil || p.By != "first" || p.AgentName != "machine-f1" || len(p.Steps) != 5 || p.Outcomes[wire.ChannelOOB] != operator.ProbePassed || p.EndedAt.Before(p.StartedAt) {
		t.Errorf("at its end: %+v", p)
	}
	if all := operate[operator.List[operator.Command]](n, "GET", "/v1/commands", nil).Items; len(all) != 0 {
		t.Errorf("commands came of it: %+v", all)
	}
	var kept []string
	await(t, "it is among the events", func() bool {
		kept = nil
		for _, e := range operate[operator.List[operator.AgentEvent]](n, "GET", "/v1/events?agent="+id.Agent, nil).Items {
			if e.Kind == operator.EventProbe {
				kept = append(kept, e.From+" "+e.To+" "+e.Reason)
			}
		}
		return len(kept) == 2
	})
	if !strings.HasPrefix(kept[1], "link passed passed: ping, 2000 B") || !strings.HasPrefix(kept[0], "oob passed ") {
		t.Errorf("kept: %q", kept)
	}

	refused := func(what string, order any, status int, code, says string) {
		t.Helper()
		body, _ := json.Marshal(order)
		got, _, raw := n.request("POST", n.Info().URL+path+"/probe", n.Info().OperatorToken, body)
		if got != status || codeOf(t, raw) != code || !strings.Contains(string(raw), says) {
			t.Errorf("%s: %d %s", what, got, raw)
		}
	}
	refused("too large", operator.NewProbe{Sizes: []int{1 << 20}}, http.StatusBadRequest, wire.ProblemBadRequest, "want 64 to 524288")
	refused("a field that there is not", map[string]int{"size": 1}, http.StatusBadRequest, wire.ProblemBadRequest, "size")
	if status, _, _ := n.request("POST", n.Info().URL+path+"/probe", id.token(nil), []byte("{}")); status != http.StatusUnauthorized {
		t.Errorf("by an agent: %d", status)
	}

	m.deaf.Store(true)
	var first operator.Probe
	done := make(chan int, 1)
	go func() {
		body, _ := json.Marshal(operator.NewProbe{Channels: []wire.Channel{wire.ChannelLink}, Sizes: []int{1000}})
		status, _, raw := n.request("POST", n.Info().URL+path+"/probe", n.Info().OperatorToken, body)
		lines := bytes.Split(bytes.TrimSpace(raw), []byte("\n"))
		var ev operator.ProbeEvent
		if err := json.Unmarshal(lines[len(lines)-1], &ev); err == nil && ev.Probe != nil {
			first = *ev.Probe
		}
		done <- status
	}()
	await(t, "its text has come", func() bool { return m.ignored.Load() == 1 })
	refused("a second one", operator.NewProbe{}, http.StatusConflict, wire.ProblemConflict, "under way")
	operate[operator.Directive](n, "POST", path+"/directives", operator.NewDirective{Kind: wire.DirectiveQuarantine})
	refused("in quarantine", operator.NewProbe{}, http.StatusConflict, wire.ProblemQuarantined, "--lift")
	if status := <-done; status != http.StatusOK || len(first.Steps) != 2 || first.Steps[1].State == operator.StepPassed || !strings.HasPrefix(first.Steps[1].Detail, "the link ended") {
		t.Errorf("one whose agent was quarantined meanwhile: %d %+v", status, first)
	}
	operate[operator.Agent](n, "DELETE", path, nil)
	refused("removed", operator.NewProbe{}, http.StatusGone, wire.ProblemRemoved, "removed")
}
