package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"gururmm/operator"
	"gururmm/wire"
)

// offering is a server with something of each kind.
func offering(t *testing.T) *httptest.Server {
	t.Helper()
	answers := map[string]any{
		"/v1/agents": operator.List[operator.Agent]{Items: []operator.Agent{
			{ID: "0190-a", Name: "web-1", Site: "berlin", Presence: "verified", Version: "v1.0.0", Tags: []string{"db", "web"}},
			{ID: "0190-b", Name: "twin", Site: "berlin", Tags: []string{"web"}}, {ID: "0190-c", Name: "Twin", Site: "oslo"},
			{ID: "0190-d", Name: "$(reboot)", Site: "a b"}, {ID: "0190-e", Name: "two\nlines"},
		}},
		"/v1/agents/twin": operator.Agent{ID: "0190-b", Copies: []operator.Copy{{Copy: wire.Copy{Instance: "0190-i", Hostname: "left"}}}},
		"/v1/commands": operator.List[operator.Command]{Items: []operator.Command{
			{ID: "0190-1", AgentName: "web-1", State: wire.StateRunning, Script: "sleep\t9"}, {ID: "0190-2", AgentName: "web-1", State: wire.StateCompleted},
		}},
		"/v1/agents/web-1/bundles": operator.List[operator.Bundle]{Items: []operator.Bundle{{ID: "0190-3", Reason: "ordered"}}},
		"/v1/builds": operator.List[operator.Build]{Items: []operator.Build{
			{Build: wire.Build{Version: "v1.2.3", OS: "linux", Arch: "amd64"}}, {Build: wire.Build{Version: "v1.2.3", OS: "linux", Arch: "arm64"}},
		}},
		"/v1/rollouts": operator.List[operator.Rollout]{Items: []operator.Rollout{
			{ID: "0190-4", Version: "v1.2.3", State: operator.RolloutActive}, {ID: "0190-5", Version: "v1.2.2", State: operator.RolloutDone},
		}},
		"/v1/jobs": operator.List[operator.Job]{Items: []operator.Job{
			{ID: "0190-7", State: operator.JobRunning, Endpoints: 2, Script: "true"}, {ID: "0190-8", State: operator.JobDone, Endpoints: 1},
		}},
		"/v1/enroll-tokens": operator.List[operator.EnrollToken]{Items: []operator.EnrollToken{{ID: "0190-6", Site: "oslo"}}},
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
	t.Cleanup(server.Close)
	return server
}

func TestWhatAShellCompletes(t *testing.T) {
	env := map[string]string{"GURURMM_URL": offering(t).URL, "GURURMM_TOKEN": "gro_x"}
	agents := "web-1\tverified v1.0.0|0190-b\ttwin|0190-c\tTwin|0190-d\t$(reboot)|0190-e\ttwo lines"
	for typedSoFar, want := range map[string]string{
		"exec |":                       agents,
		"agents show |":                agents,
		"doctor |":                     agents,
		"agents --tag |":               "db|web",
		"agents --tag db,w|":           "db,web",
		"agents tag web-1 --remove w|": "web",
		"exec web-1 |":                 "",
		"exec --tag |":                 "db|web",
		"exec --all --except w|":       "web-1\tverified v1.0.0",
		"jobs show |":                  "0190-7\trunning 2 endpoints: true|0190-8\tdone 1 endpoint:",
		"jobs cancel |":                "0190-7\trunning 2 endpoints: true",
		"agents show web-1 |":          "",
		"direct web-1 restart_w|":      "restart_worker\trestart the worker, which holds the link and the jobs",
		"diagnose web-1 --agent |":     "",
		"diagnose --case " + startCase + " --agent |": "agent-a|agent-b|agent-c",
		"trace |":                        "0190-1\tweb-1 running: sleep 9|0190-2\tweb-1 completed:",
		"cancel |":                       "0190-1\tweb-1 running: sleep 9",
		"commands --agent w|":            "web-1\tverified v1.0.0",
		"commands --state c|":            "completed|cancelled",
		"exec web-1 --shell p|":          "powershell|python",
		"bundles web-1 --download |":     "0190-3\tordered",
		"bundles --delete |":             "",
		"agents resolve twin --keep |":   "0190-i\tleft",
		"update roll |":                  "v1.2.3\tlinux/amd64 linux/arm64",
		"update roll --site |":           "berlin|oslo",
		"update roll --agents web-1,|":   "web-1,0190-b\ttwin|web-1,0190-c\tTwin|web-1,0190-d\t$(reboot)|web-1,0190-e\ttwo lines",
		"update stop |":                  "0190-4\tv1.2.3 active",
		"update status |":                "0190-4\tv1.2.3 active|0190-5\tv1.2.2 done",
		"enroll-token revoke |":          "0190-6\toslo",
		"enroll-token create --site os|": "oslo",
	} {
		args := strings.Split(strings.TrimSuffix(typedSoFar, "|"), " ")
		out, _, code := typed(t, env, append([]string{"__complete"}, args...)...)
		lines := strings.Split(strings.TrimSpace(out), "\n")
		if got := strings.Join(lines[:len(lines)-1], "|"); got != want || code != 0 {
			t.Errorf("%s: exit %d\n got %q\nwant %q", typedSoFar, code, got, want)
		}
	}
}

// A shell waits in the middle of a line: no server, no login, or one that does not
// answer gives nothing, soon.
func TestCompletionIsSilentOnErrors(t *testing.T) {
	release := make(chan struct{})
	stuck := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	}))
	defer stuck.Close()
	defer close(release)
	refusing := httptest.NewServer(http.NotFoundHandler())
	refusing.Close()
	for name, env := range map[string]map[string]string{
		"no login": nil, "stuck": {"GURURMM_URL": stuck.URL, "GURURMM_TOKEN": "gro_x"}, "gone": {"GURURMM_URL": refusing.URL, "GURURMM_TOKEN": "gro_x"},
		"no such pages": {"GURURMM_URL": offering(t).URL + "/elsewhere", "GURURMM_TOKEN": "gro_x"},
	} {
		began := time.Now()
		out, _, code := typed(t, env, "__complete", "exec", "")
		if code != 0 || out != ":4\n" {
			t.Errorf("%s: exit %d, %q", name, code, out)
		}
		t.Logf("%s: %v", name, time.Since(began))
		if took := time.Since(began); took > 10*completeWithin {
			t.Errorf("%s: it took %v", name, took)
		}
	}
}
