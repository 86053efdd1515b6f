package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"gururmm/operator"
	"gururmm/wire"
)

// fleet is a server with three endpoints; the job of them has ended, as the test says, when
// it is asked for the second time.
func fleet(t *testing.T, parts ...operator.JobAgent) (env map[string]string, asked func() []operator.NewJob) {
	t.Helper()
	var mu sync.Mutex
	var orders []operator.NewJob
	polls := 0
	job := operator.Job{ID: "0190-job", Script: "true", State: operator.JobRunning, CreatedBy: "ops", CreatedAt: time.Now(), Endpoints: len(parts)}
	job.Counts.Pending = len(parts)
	mux := http.NewServeMux()
	answer := func(w http.ResponseWriter, v any) {
		if err := json.NewEncoder(w).Encode(v); err != nil {
			t.Error(err)
		}
	}
	mux.HandleFunc("POST /v1/jobs", func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		var n operator.NewJob
		if err := json.NewDecoder(r.Body).Decode(&n); err != nil {
			t.Error(err)
		}
		orders = append(orders, n)
		if seen := job; n.Preview {
			seen.ID, seen.Names = "", []string{"a", "b", "c"}[:len(parts)]
			answer(w, seen)
			return
		}
		answer(w, job)
	})
	mux.HandleFunc("GET /v1/jobs/0190-job", func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if polls++; polls > 1 {
			job.State, job.EndedAt, job.Counts = operator.JobDone, new(time.Now()), operator.JobCounts{}
			for _, p := range parts {
				*job.Counts.Of(p.State)++
			}
		}
		answer(w, job)
	})
	mux.HandleFunc("GET /v1/jobs/0190-job/agents", func(w http.ResponseWriter, r *http.Request) {
		shown := []operator.JobAgent{}
		for _, p := range parts {
			if r.FormValue("unwell") != "true" || p.State != string(wire.StateCompleted) {
				shown = append(shown, p)
			}
		}
		answer(w, operator.List[operator.JobAgent]{Items: shown})
	})
	mux.HandleFunc("GET /v1/commands/{id}/output/{stream}", func(w http.ResponseWriter, r *http.Request) {
		said := map[string]string{"1stdout": "6.1\n", "2stdout": "6.1\n", "3stdout": "5.10", "3stderr": "no \x1b[31mmodule\n"}[r.PathValue("id")+r.PathValue("stream")]
		if _, err := io.WriteString(w, said); err != nil {
			t.Error(err)
		}
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return map[string]string{"GURURMM_URL": server.URL, "GURURMM_TOKEN": "gro_x"}, func() []operator.NewJob {
		mu.Lock()
		defer mu.Unlock()
		return orders
	}
}

func part(n int, name, command string, state wire.State, exit *int) operator.JobAgent {
	return operator.JobAgent{N: n, AgentName: name, Command: command, State: string(state), ExitCode: exit, StdoutBytes: 4}
}

func TestAJobsExitCodeAndPages(t *testing.T) {
	well := []operator.JobAgent{part(1, "a", "1", wire.StateCompleted, new(0)), part(2, "b", "2", wire.StateCompleted, new(0))}
	env, asked := fleet(t, well...)
	out, errs, code := typed(t, env, "exec", "--all", "--except", "x", "--at-once", "2", "--stop-after-failures", "5%", "--yes", "--output", "--", "uname", "-r")
	if code != 0 || !strings.Contains(errs, "job 0190-job, 2 endpoints") || !strings.Contains(errs, "0 of 2 completed, 2 pending") {
		t.Errorf("exit %d, %s", code, errs)
	}
	if want := "== 2 endpoints (completed): a, b\n6.1\n\n"; !strings.HasPrefix(out, want) || !strings.Contains(strings.Join(strings.Fields(out), " "), "2 of 2 completed.") {
		t.Errorf("printed %q", out)
	}
	if n := asked()[0]; len(asked()) != 1 || n.Script != "uname -r" || !n.All || n.Except[0] != "x" || n.AtOnce != 2 || n.StopAfterFailures != "5%" || n.Preview || n.Expect != nil || n.IdempotencyKey == "" {
		t.Errorf("asked %+v", asked())
	}

	third := part(3, "c", "3", wire.StateFailed, new(3))
	third.StderrBytes, third.Reason = 5, "exit code 3"
	env, _ = fleet(t, append(well, third)...)
	out, _, code = typed(t, env, "exec", "--tag", "web", "--yes", "--output", "--", "uname -r")
	if code != 1 || !strings.Contains(out, "== 1 endpoint (failed, exit 3): c\n5.10\n-- stderr\nno [31mmodule\n") || !strings.Contains(out, "c      failed  3\n  3 exit code 3\n") {
		t.Errorf("exit %d, printed\n%s", code, out)
	}
	var report jobReport
	env, _ = fleet(t, append(well, third)...)
	out, errs, code = typed(t, env, "exec", "--site", "x", "--yes", "--json", "--", "uname -r")
	if err := json.Unmarshal([]byte(out), &report); err != nil || code != 1 || report.Counts.Failed != 1 || len(report.Agents) != 1 || strings.Contains(errs, "job 0190") {
		t.Errorf("exit %d, %v, %+v, %s", code, err, report, errs)
	}
	out, _, code = typed(t, env, "jobs", "show", "0190-job", "--failed", "--output")
	if code != 0 || !strings.Contains(out, "5.10") || strings.Contains(out, "6.1") {
		t.Errorf("jobs show: exit %d\n%s", code, out)
	}
}

// Many endpoints are never hit by a word that was forgotten.
func TestManyAreAskedAboutFirst(t *testing.T) {
	env, asked := fleet(t, part(1, "a", "1", wire.StateCompleted, nil), part(2, "b", "2", wire.StateCompleted, nil))
	_, errs, code := typed(t, env, "exec", "--all", "--", "true")
	if code != exitNoCode || !strings.Contains(errs, "2 endpoints are chosen") || !strings.Contains(errs, "--yes") || len(asked()) != 1 || !asked()[0].Preview {
		t.Errorf("exit %d, %s, asked %+v", code, errs, asked())
	}
	env, asked = fleet(t, part(1, "a", "1", wire.StateCompleted, nil))
	if _, errs, code = typed(t, env, "exec", "--agents", "a", "--", "true"); code != 0 || len(asked()) != 2 || *asked()[1].Expect != 1 {
		t.Errorf("one alone: exit %d, %s, asked %+v", code, errs, asked())
	}
	for args, says := range map[string]string{
		"exec --all":                            "what is to be run?",
		"exec --all vm -- true":                 "give an AGENT, or --all",
		"exec --all uname":                      "put -- before the command",
		"exec --all --file x -- true":           "not both",
		"exec --all --site x -- true":           "--all or --site, not both",
		"exec --tag x --agents y -- true":       "--tag or --agents, not both",
		"exec --all --at-once 0 -- true":        "--at-once 0",
		"exec vm --at-once 2 -- true":           "--at-once is for many endpoints",
		"exec vm --yes -- true":                 "--yes is for many endpoints",
		"exec --except vm -- true":              "--except is for many endpoints",
		"exec vm --output -- true":              "--output is for many endpoints",
		"exec vm --stop-after-failures 1 -- ls": "--stop-after-failures is for many endpoints",
	} {
		if _, errs, code := typed(t, nil, strings.Fields(args)...); code != exitNoCode || !strings.Contains(errs, says) {
			t.Errorf("%s: exit %d, %s", args, code, errs)
		}
	}
}

// Whoever stops watching is told how to go on, and the job goes on.
func TestAJobIsLeftRunning(t *testing.T) {
	var errs bytes.Buffer
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	client, err := operator.New("http://127.0.0.1:1", "x", nil)
	if err != nil {
		t.Fatal(err)
	}
	w := &jobWatch{client: client, err: &errs, last: operator.Job{ID: "0190-job", State: operator.JobRunning}}
	left, ok := errors.AsType[*exitError](w.run(ctx))
	if !ok || left.code != exitDetached || !strings.Contains(left.Error(), "gururmm jobs show 0190-job --follow") || !strings.Contains(left.Error(), "gururmm jobs cancel 0190-job") {
		t.Errorf("left by %v", left)
	}
	if _, drawn := any(w.err).(*os.File); drawn || strings.Contains(errs.String(), "\x1b") {
		t.Errorf("drawn where nobody sees it: %q", errs.String())
	}
}

// Endpoints of one host name are told apart by their ids, in what they wrote and in what failed.
func TestEndpointsOfOneNameAreToldApartInAJob(t *testing.T) {
	part := func(id, state string) jobPart {
		return jobPart{JobAgent: operator.JobAgent{Agent: id, AgentName: "vm", State: state}, Stdout: []byte("6.1\n")}
	}
	var out bytes.Buffer
	if err := printOutputs(&out, []jobPart{part("01a20b84-1", "completed"), part("01a20b85-2", "completed")}); err != nil {
		t.Fatal(err)
	}
	if err := printJob(&out, operator.Job{}, []jobPart{part("01a20b86-3", "left_out"), part("01a20b87-4", "left_out")}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"vm (01a20b84), vm (01a20b85)", "vm (01a20b86)  left out", "vm (01a20b87)  left out"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("it does not say %q:\n%s", want, out.String())
		}
	}
}
