package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"gururmm/diagnosis"
	"gururmm/operator"
	"gururmm/wire"
)

// What is handed to an outside expert holds no name and no text of a command, and as a case it
// is weighed as the agent is.
func TestDossierGoesOutAndComesBack(t *testing.T) {
	now := time.Now()
	command := operator.Command{ID: "01900000-0000-7000-8000-0000000000c1", Agent: "0190-a", AgentName: "frontdesk-7", Script: "get-payroll --all", State: wire.StateRunning, CreatedAt: now.Add(-time.Minute), CreatedBy: "alice"}
	agent := operator.Agent{ID: "0190-a", Name: "frontdesk-7", Site: "berlin", Presence: "degraded", Verdict: "route.stale", LastSeen: &now, LastVia: "text", Owed: 1, Addr: "10.1.2.3"}
	trace := operator.Trace{Command: command, Stopped: "Waiting for frontdesk-7.", Entries: []operator.TraceEntry{
		{Stage: wire.StageAccepted, At: command.CreatedAt}, {Stage: wire.StageClaimed, At: command.CreatedAt, Channel: wire.ChannelLink},
	}}
	visit := operator.Directive{ID: "d1", Kind: wire.DirectiveRunProbes, State: "done", CreatedAt: now.Add(-time.Minute)}
	seen := visit
	seen.Report = json.RawMessage(`{"schema":1,"verdict":"pass","results":[{"group":"this machine","name":"clock","status":"pass","seen":"frontdesk-7 is right"}]}`)
	env := askable(t, map[string]any{
		"/v1/agents/frontdesk-7": agent, "/v1/agents/0190-a": agent,
		"/v1/agents":   operator.List[operator.Agent]{Items: []operator.Agent{agent, {ID: "0190-b", Name: "frontdesk-8", Site: "berlin", Presence: "verified"}}},
		"/v1/commands": operator.List[operator.Command]{Items: []operator.Command{command}}, "/v1/commands/" + command.ID + "/trace": trace,
		"/v1/agents/0190-a/traces": operator.List[operator.Trace]{Items: []operator.Trace{trace}}, "/v1/agents/0190-a/directives": operator.List[operator.Directive]{Items: []operator.Directive{visit}},
		"/v1/directives/d1": seen, "/v1/beacons": operator.List[operator.Beacon]{}, "/v1/events": operator.List[operator.AgentEvent]{},
	})
	run := func(env map[string]string, args ...string) string {
		t.Helper()
		out, errs, code := typed(t, env, args...)
		if code != 0 {
			t.Fatalf("%q: exit %d, %s", args, code, errs)
		}
		return out
	}
	page := run(env, "dossier", "frontdesk-7", "--since", "2h")
	for _, want := range []string{"# What is held of agent-a", "#### command-1", "agent-a is right", "## 6. What is not known"} {
		if !strings.Contains(page, want) {
			t.Errorf("%q is not in\n%s", want, page)
		}
	}
	asCase := run(env, "dossier", "frontdesk-7", "--json")
	for _, word := range []string{"frontdesk", "berlin", "payroll", "alice", "10.1.2.3", command.ID} {
		if strings.Contains(page, word) || strings.Contains(asCase, word) {
			t.Errorf("it holds %q", word)
		}
	}
	if kept := run(env, "dossier", "frontdesk-7", "--names"); !strings.Contains(kept, "frontdesk-7 is right") || strings.Contains(kept, "payroll") {
		t.Error(kept)
	}
	file := filepath.Join(t.TempDir(), "case.json")
	if err := os.WriteFile(file, []byte(asCase), 0o600); err != nil {
		t.Fatal(err)
	}
	var of, again diagnosis.Answer
	if err := json.Unmarshal([]byte(run(env, "diagnose", "frontdesk-7", "--json")), &of); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(run(nil, "diagnose", "--case", file, "--json")), &again); err != nil {
		t.Fatal(err)
	}
	ranks := func(a diagnosis.Answer) (out []any) {
		for _, r := range a.Ranking {
			out = append(out, r.ID, r.Probability)
		}
		return append(out, a.Confidence.Word, len(a.Proven))
	}
	if a, b := ranks(of), ranks(again); len(of.Proven) == 0 || !reflect.DeepEqual(a, b) {
		t.Errorf("of the agent %v, of the case %v", a, b)
	}
}
