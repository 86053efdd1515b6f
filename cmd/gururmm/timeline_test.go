package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"gururmm/operator"
	"gururmm/wire"
)

// askable is a server that answers so, and nothing else.
func askable(t *testing.T, answers map[string]any) map[string]string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer, known := answers[r.URL.Path]
		if !known {
			http.NotFound(w, r)
			return
		}
		if err := json.NewEncoder(w).Encode(answer); err != nil {
			t.Error(err)
		}
	}))
	t.Cleanup(server.Close)
	return map[string]string{"GURURMM_URL": server.URL, "GURURMM_TOKEN": "gro_x"}
}

func TestTimelineOfAnAgentAndOfACommand(t *testing.T) {
	now := time.Now()
	at := func(s int) time.Time { return now.Add(-time.Duration(s) * time.Second) }
	agent := operator.Agent{ID: "0190-a", Name: "web-1", Presence: "verified", Verdict: "ok", ClockSkew: new(int64(-1500))}
	entry := func(s wire.Stage, end string, ago int) operator.TraceEntry {
		return operator.TraceEntry{Stage: s, At: at(ago), End: end, Attempt: 1, Channel: wire.ChannelLink, Link: "07"}
	}
	trace := operator.Trace{Command: operator.Command{ID: "0190-1", Agent: agent.ID, State: wire.StateCompleted, CreatedAt: at(60), EndedAt: new(at(59)), Script: "hostname"},
		Entries: []operator.TraceEntry{entry(wire.StageAccepted, "server", 60), entry(wire.StageRead, "agent", 59)}}
	why := "it said so, in a sentence that is long enough to be folded and not to be said again"
	env := askable(t, map[string]any{
		"/v1/agents/web-1": agent, "/v1/agents/0190-a": agent, "/v1/commands/0190-1/trace": trace,
		"/v1/agents/0190-a/traces": operator.List[operator.Trace]{Items: []operator.Trace{trace}}, "/v1/agents/0190-a/directives": operator.List[operator.Directive]{},
		"/v1/beacons": operator.List[operator.Beacon]{},
		"/v1/events": operator.List[operator.AgentEvent]{Items: []operator.AgentEvent{
			{At: at(100), Kind: operator.EventPresence, From: "degraded", To: "offline", Reason: "the agent: " + why}, {At: at(7200), Kind: operator.EventVerdict, To: "link.silent", Reason: why},
		}},
	})
	run := func(args ...string) string { // what is for people fits their terminal
		t.Helper()
		out, errs, code := typed(t, env, append([]string{"timeline"}, args...)...)
		if code != 0 {
			t.Fatalf("%q: exit %d, %s", args, code, errs)
		}
		for line := range strings.Lines(out) {
			if n := len([]rune(strings.TrimSuffix(line, "\n"))); n > 80 && !slices.Contains(args, "--json") {
				t.Errorf("%d columns: %q", n, line)
			}
		}
		return out
	}
	out := run("web-1")
	for _, want := range []string{"clock's distance, -1.5s", "2 more with -v", "agent     verdict link.silent", " +1h58m20s  server", "(as above)", "completed after 1s: hostname", "now verified"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in\n%s", want, out)
		}
	}
	if strings.Contains(out, "command 1 read") {
		t.Errorf("a stage of a command that went well:\n%s", out)
	}
	if out := run("web-1", "-v", "--since", "90s"); !strings.Contains(out, "agent     command 1 read") || strings.Contains(out, "link.silent") {
		t.Error(out)
	}
	if out := run("--command", "0190-1"); !strings.Contains(out, "agent     command 1 read") || strings.Contains(out, "offline") || strings.Contains(out, "now verified") {
		t.Error(out)
	}
	if out := run("web-1", "--limit", "1"); !strings.Contains(out, "3 more with a higher --limit") {
		t.Error(out)
	}
	var list operator.List[map[string]any]
	if err := json.Unmarshal([]byte(run("web-1", "--json")), &list); err != nil || len(list.Items) != 6 {
		t.Errorf("%v, %d entries", err, len(list.Items))
	}
	for args, says := range map[string]string{
		"timeline": "give AGENT", "timeline web-1 --since tomorrow": "so long back", "timeline web-1 --since 1h --until 2h": "is not after",
		"timeline web-1 --since -1h": "so long back", "timeline web-1 --limit 0": "limit",
	} {
		if _, errs, code := typed(t, env, strings.Fields(args)...); code == 0 || !strings.Contains(errs, says) {
			t.Errorf("%s: exit %d, %s", args, code, errs)
		}
	}
}
