package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"gururmm/internal/wrap"
	"gururmm/operator"
	"gururmm/wire"
)

// A page says of each endpoint where it stands and why, and what can be done.
func TestARolloutsPage(t *testing.T) {
	now := time.Now()
	before, soon := now.Add(-90*time.Second), now.Add(3*time.Minute+30*time.Second)
	part := func(state string, change func(*operator.RolloutAgent)) operator.RolloutAgent {
		a := operator.RolloutAgent{AgentName: "a-host-with-quite-a-name", State: state, OrderedAt: &before, EndedAt: &before, Standing: operator.RollPresent}
		if change != nil {
			change(&a)
		}
		return a
	}
	r := operator.Rollout{
		ID: "01a20bab-eeb8-7dcb-a71b-454d8bc2f90f", Version: "v1.2.3", State: operator.RolloutActive, CreatedBy: "first", CreatedAt: before,
		Now:   "ring 1 of 2: 1 of 9 done, 3 under way, 3 waiting, of them 1 put off",
		Rings: []operator.RolloutRing{{Percent: 12.5, Wanted: 10, Waiting: 3, Away: 1, Later: 1, Ordered: 2, Running: 1, Done: 1, Failed: 1, Untried: 1, Skipped: 1}, {Percent: 100, Wanted: 12345, Waiting: 12345}},
		Failures: []operator.RolloutAgent{part(operator.RollFailed, func(a *operator.RolloutAgent) {
			a.Detail = strings.Repeat("the worker said a lot of what went wrong there ", 4)
		})},
		Open: []operator.RolloutAgent{
			part(operator.RollUntried, func(a *operator.RolloutAgent) { a.Detail = "busy: an update is under way (ordered 6 times)" }),
			part(operator.RollRunning, nil), part(operator.RollOrdered, nil),
			part(operator.RollOrdered, func(a *operator.RolloutAgent) { a.Standing = operator.RollAway }),
			part(operator.RollWaiting, func(a *operator.RolloutAgent) {
				a.Attempts, a.NotBefore, a.Detail = 2, &soon, "journal: the disk is full"
			}),
			part(operator.RollWaiting, nil), part(operator.RollWaiting, func(a *operator.RolloutAgent) { a.Standing = operator.RollAway }),
			part(operator.RollWaiting, func(a *operator.RolloutAgent) { a.Standing = operator.RollPresenceUnknown }),
		},
		OpenMore: 7,
	}
	page := func() string {
		t.Helper()
		var b strings.Builder
		if err := printRollout(&b, r); err != nil {
			t.Fatal(err)
		}
		for line := range strings.SplitSeq(b.String(), "\n") {
			if len([]rune(line)) > wrap.Width {
				t.Errorf("too wide: %q", line)
			}
		}
		return strings.Join(strings.Fields(b.String()), " ")
	}
	says := func(page string, words ...string) {
		t.Helper()
		for _, w := range words {
			if !strings.Contains(page, w) {
				t.Errorf("it does not say %q:\n%s", w, page)
			}
		}
	}
	says(page(), "1 (12.5%) * 10 1 3 2 1 1 1 1", "2 (100%) 12345 0 0 12345", "failed 1m ago: the worker", "could not be tried, given up 1m ago: busy",
		"has taken it up", "has not answered yet", "it may answer when it comes back", "put it off (2 times), is ordered again in 3m: journal: the disk is full",
		"waits for its turn", "is away; it is ordered when it comes back", "since the server's start", "and 7 more",
		"update resume "+r.ID+" --retry", "update stop "+r.ID)
	r.State, r.Now = operator.RolloutStopped, "stopped: by first"
	says(page(), "stopped: by first. RING", "was not ordered", "is not ordered any more: journal", "--max-failures N")
	r.Resumable = true
	says(page(), "To go on as it is: gururmm update resume "+r.ID)
	r.Resumable, r.Rings = false, []operator.RolloutRing{{Percent: 100, Wanted: 2, Failed: 1, Skipped: 1}}
	if p := page(); strings.Contains(p, "--max-failures") || !strings.Contains(p, "gururmm update roll v1.2.3") {
		t.Errorf("no limit helps a ring of which nobody is left:\n%s", p)
	}
	r.Plan = operator.RolloutPlan{Rings: []float64{100}, MaxFailures: "5%", SoakMS: -1, Parallel: 50, GraceMS: 5000, OfAgents: []string{wire.NewID(), wire.NewID()}}
	says(strings.ReplaceAll(page(), "\\ ", ""), "update roll v1.2.3 --agents "+r.Plan.OfAgents[0]+" --agents "+r.Plan.OfAgents[1]+" --ring 100% --soak 0s --grace 5s")
	r.Plan = operator.RolloutPlan{Rings: []float64{1, 10, 100}, MaxFailures: "2", SoakMS: 3_600_000, Parallel: 7, AllowDowngrade: true, OfSite: "the lab"}
	says(strings.ReplaceAll(page(), "\\ ", ""), "update roll v1.2.3 --site 'the lab' --max-failures 2 --soak 1h0m0s --parallel 7 --allow-downgrade")
	r.State, r.Now, r.Rings, r.Failures, r.Open, r.OpenMore = operator.RolloutDone, "done", []operator.RolloutRing{{Percent: 100, Wanted: 2, Done: 2}}, nil, nil, 0
	if p := page(); strings.Contains(p, "gururmm update") {
		t.Errorf("there is nothing to do:\n%s", p)
	}
}

// A rollout to more than one endpoint is asked for, and where nobody can be it needs --yes.
func TestARolloutToManyIsAskedFor(t *testing.T) {
	var orders []operator.NewRollout
	wanted := 2
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/rollouts", func(w http.ResponseWriter, r *http.Request) {
		var n operator.NewRollout
		if err := json.NewDecoder(r.Body).Decode(&n); err != nil {
			t.Error(err)
		}
		orders = append(orders, n)
		out := operator.Rollout{Version: n.Version, State: operator.RolloutActive, Rings: []operator.RolloutRing{{Percent: 100, Wanted: wanted + 3, Skipped: 3}}}
		if !n.Preview {
			out.ID = wire.NewID()
		}
		if err := json.NewEncoder(w).Encode(out); err != nil {
			t.Error(err)
		}
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	env := map[string]string{"GURURMM_URL": server.URL, "GURURMM_TOKEN": "gro_x"}
	if _, errs, code := typed(t, env, "update", "roll", "v1.2.3"); code != 1 || !strings.Contains(errs, "2 endpoints are chosen") || !strings.Contains(errs, "--yes") {
		t.Errorf("exit %d: %s", code, errs)
	}
	if len(orders) != 1 || !orders[0].Preview {
		t.Errorf("ordered %+v, though nobody was asked", orders)
	}
	if _, errs, code := typed(t, env, "update", "roll", "v1.2.3", "--yes"); code != 0 || len(orders) != 2 || orders[1].Preview || orders[1].Expect != nil {
		t.Errorf("with --yes: exit %d, %+v: %s", code, orders, errs)
	}
	wanted = 1
	if _, errs, code := typed(t, env, "update", "roll", "v1.2.3"); code != 0 || len(orders) != 4 || orders[3].Preview || orders[3].Expect == nil || *orders[3].Expect != 1 {
		t.Errorf("of one: exit %d, %+v: %s", code, orders, errs)
	}
}
