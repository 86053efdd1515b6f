package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gururmm/diagnosis"
	"gururmm/internal/help"
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
		"diagnose --case -":                           "it is empty",
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
