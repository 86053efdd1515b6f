package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gururmm/diagnosis"
	"gururmm/internal/help"
	"gururmm/operator"
	"gururmm/wire"
)

const startCase = "../../lab/cases/commands-unacknowledged.yaml"

func TestDiagnoseACase(t *testing.T) {
	out, errs, code := typed(t, nil, "diagnose", "--case", startCase)
	if code != 0 || errs != "" {
		t.Fatal(code, errs)
	}
	last := 0
	for _, head := range []string{"\nproven ", "\nleading ", "\nsure? ", "\nranked ", "\nruled out ", "\ninferred ", "\ndoubtful ", "\nnext test ", "\nremedy "} {
		at := strings.Index(out, head)
		if at <= last {
			t.Errorf("%q is not where it belongs in:\n%s", head, out)
		}
		last = at
	}
	var a diagnosis.Answer
	out, _, code = typed(t, nil, "diagnose", "--case", startCase, "--json")
	if err := json.Unmarshal([]byte(out), &a); code != 0 || err != nil || a.Version != diagnosis.AnswerVersion || len(a.Ranking) == 0 {
		t.Errorf("in JSON: %d, %v, %+v", code, err, a.Confidence)
	}
	if out, _, code = typed(t, nil, "diagnose", "--case", startCase, "--markdown"); code != 0 || !strings.HasPrefix(out, "# commands unacknowledged") {
		t.Errorf("as a page: %d, %.80s", code, out)
	}
	if out, _, code = typed(t, nil, "diagnose", "--case", startCase, "--agent", "agent-b"); code != 0 || strings.Contains(out, "agent-a") {
		t.Errorf("one agent alone: %d\n%s", code, out)
	}
	if out, _, code = typed(t, nil, "diagnose", "--list"); code != 0 || !strings.Contains(out, "\nping.down  Does the agent read the server's pings?") {
		t.Errorf("the list: %d\n%.400s", code, out)
	}
}

func TestACaseThatCannotBeReadExits2(t *testing.T) {
	bad := filepath.Join(t.TempDir(), "bad.yaml")
	text := "case: 1\nsubject: x\nobservations:\n  - {observation: pings.down, value: yes, grade: one_end, source: me}\n"
	if err := os.WriteFile(bad, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for args, says := range map[string]string{
		"diagnose":                                    "give AGENT, or --case FILE",
		"diagnose --case /nowhere":                    "--case: ",
		"diagnose --case " + bad:                      `bad.yaml: not a case that can be read: line 4: no observation is called "pings.down"; do you mean ping.down?`,
		"diagnose --case " + startCase + " --agent b": "the case has agent-a, agent-b, agent-c",
		"diagnose --case x --json --markdown":         "not both",
		"diagnose --case -":                           "standard input: not a case that can be read: it is empty",
		"diagnose agent-a --case " + startCase:        "not both",
		"diagnose agent-a":                            "gururmm login",
	} {
		if _, errs, code := typed(t, nil, strings.Fields(args)...); code != exitBadInput || !strings.Contains(errs, says) {
			t.Errorf("%s: exit %d, %q does not say %q", args, code, errs, says)
		}
	}
	var e jsonError
	_, errs, code := typed(t, nil, "diagnose", "--json", "--case", bad)
	if err := json.Unmarshal([]byte(errs), &e); err != nil || code != exitBadInput || e.Code != codeBadCase {
		t.Errorf("%d %q", code, errs)
	}
}

// What an answer tells a person to type must be there to be typed.
func TestTheTestsThatAnAnswerNamesCanBeRun(t *testing.T) {
	tried := 0
	var lines []string
	for _, test := range diagnosis.Tests() {
		lines = append(lines, test.Run...)
	}
	for _, line := range lines {
		line = strings.NewReplacer(" AGENT", " web-17", " SITE", " berlin", " COMMAND", " 0190", " URL", " https://rmm.example").Replace(line)
		if !strings.HasPrefix(line, "gururmm ") {
			continue
		}
		tried++
		if err := help.Try(rootCommand(nil), line); err != nil {
			t.Errorf("%s: %v", line, err)
		}
	}
	if tried < 15 {
		t.Errorf("only %d tried", tried)
	}
}

// Of an agent it asks the server, and what it weighs can be written down and read again.
func TestDiagnoseAnAgent(t *testing.T) {
	now := time.Now()
	command := operator.Command{ID: "0190-1", State: wire.StateRunning, CreatedAt: now.Add(-time.Minute)}
	agent := operator.Agent{ID: "0190-a", Name: "web-1", Site: "berlin", Presence: "degraded", Verdict: "route.stale", LastSeen: &now, LastVia: "text", Owed: 1}
	answers := map[string]any{
		"/v1/agents/web-1": agent,
		"/v1/agents":       operator.List[operator.Agent]{Items: []operator.Agent{agent, {ID: "0190-b", Site: "berlin", Presence: "verified"}}},
		"/v1/commands":     operator.List[operator.Command]{Items: []operator.Command{command}},
		"/v1/commands/0190-1/trace": operator.Trace{Command: command, Stopped: "Waiting.", Entries: []operator.TraceEntry{
			{Stage: wire.StageAccepted, At: command.CreatedAt}, {Stage: wire.StageClaimed, At: command.CreatedAt, Channel: wire.ChannelLink},
		}},
		"/v1/beacons": operator.List[operator.Beacon]{}, "/v1/events": operator.List[operator.AgentEvent]{},
	}
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
	defer server.Close()
	env := map[string]string{"GURURMM_URL": server.URL, "GURURMM_TOKEN": "gro_x"}
	out, errs, code := typed(t, env, "diagnose", "web-1")
	if code != 0 || !strings.Contains(out, "lost between claimed and written") || !strings.Contains(out, "server.unwritten") {
		t.Errorf("exit %d, %s\n%s", code, errs, out)
	}
	for _, more := range [][]string{nil, {"--json"}} {
		written, errs, code := typed(t, env, append([]string{"diagnose", "web-1", "--as-case"}, more...)...)
		file := filepath.Join(t.TempDir(), "case.yaml")
		if err := os.WriteFile(file, []byte(written), 0o600); code != 0 || err != nil {
			t.Fatal(code, errs, err)
		}
		if again, errs, code := typed(t, nil, "diagnose", "--case", file); code != 0 || again != out {
			t.Errorf("read again: exit %d, %s\n%s\nit was\n%s", code, errs, again, out)
		}
	}
	if _, errs, code := typed(t, env, "diagnose", "web-2"); code != exitBadInput {
		t.Errorf("an agent that there is not: exit %d, %s", code, errs)
	}
}
