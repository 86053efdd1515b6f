package main

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Who asks for JSON gets it: errors, the list of probes and the version, too.
func TestWhoAsksForJSONGetsIt(t *testing.T) {
	none := filepath.Join(t.TempDir(), "none")
	for args, want := range map[string]struct {
		code string
		exit int
	}{
		"events --json --kind nothing":            {codeFailed, 1},
		"events --json --nothing":                 {codeFailed, 1},
		"policy show --json --state-dir " + none:  {codeNotRunning, 1},
		"doctor --json --only nothing":            {codeFailed, 2},
		"bundle --json -o " + none + "/x/y --bad": {codeFailed, 1},
	} {
		got := call(t, nil, strings.Fields(args)...)
		var e struct{ Error, Code string }
		if err := json.Unmarshal([]byte(got.errout), &e); err != nil || e.Code != want.code || e.Error == "" || got.code != want.exit || strings.Count(got.errout, "\n") != 1 {
			t.Errorf("%s: exit %d, %q, %v", args, got.code, got.errout, err)
		}
	}
	for args, want := range map[string]string{
		"doctor --list --json":               `"name": "echo"`,
		"version --json --state-dir " + none: `"version": "dev"`,
	} {
		if got := call(t, nil, strings.Fields(args)...); got.code != 0 || !json.Valid([]byte(got.out)) || !strings.Contains(got.out, want) {
			t.Errorf("%s: exit %d, %q", args, got.code, got.out+got.errout)
		}
	}
}

// Where no service manager runs, nobody is sent to ask it.
func TestNobodyIsSentToAServiceManagerThatIsNotThere(t *testing.T) {
	if got := startWith("gururmm-agent run", errors.New("systemd does not run here: let your init do it")); strings.Contains(got, "agent start") || !strings.Contains(got, "your init") {
		t.Errorf("%q", got)
	}
	if got := startWith("gururmm-agent run", nil); !strings.Contains(got, "gururmm-agent start") {
		t.Errorf("%q", got)
	}
}

// A shell that completes looks where the environment says.
func TestCompletionHeedsTheEnvironment(t *testing.T) {
	dir := t.TempDir()
	event := `{"id":"a","at":"2026-11-24T02:02:51Z","kind":"verdict","code":"link.text.lost"}` + "\n"
	if err := os.WriteFile(filepath.Join(dir, "events.jsonl"), []byte(event), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := call(t, []string{"GURURMM_AGENT_STATE_DIR=" + dir}, "__complete", "events", "--code", ""); !strings.Contains(got.out, "link.text.lost") {
		t.Errorf("offered %q", got.out+got.errout)
	}
}
