package server

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"gururmm/operator"
	"gururmm/wire"
)

func TestAJobByTheAPI(t *testing.T) {
	n := start(t, false, nil)
	alpha, beta := n.enroll("alpha"), n.enroll("beta")
	n.enroll("gamma")
	c := n.client()
	pick := operator.Pick{Agents: []string{"alpha", "BETA", alpha.Agent}}
	seen, err := c.Run(t.Context(), operator.NewJob{Pick: pick, Script: "true", Preview: true})
	if err != nil || seen.Endpoints != 2 || strings.Join(seen.Names, " ") != "alpha beta" || seen.ID != "" {
		t.Fatalf("preview: %+v, %v", seen, err)
	}
	for what, q := range map[string]struct {
		job    operator.NewJob
		status int
	}{
		"nobody":         {operator.NewJob{Script: "true"}, http.StatusBadRequest},
		"no script":      {operator.NewJob{Pick: pick}, http.StatusBadRequest},
		"another number": {operator.NewJob{Pick: pick, Script: "true", Expect: new(3)}, http.StatusConflict},
		"an unknown one": {operator.NewJob{Pick: operator.Pick{All: true, Except: []string{"omega"}}, Script: "true"}, http.StatusNotFound},
	} {
		if _, err := c.Run(t.Context(), q.job); status(err) != q.status {
			t.Errorf("%s: %v, want %d", what, err, q.status)
		}
	}
	order := operator.NewJob{Pick: pick, Script: "true", IdempotencyKey: "k", Expect: new(2)}
	j, err := c.Run(t.Context(), order)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := c.Run(t.Context(), order); err != nil || again.ID != j.ID {
		t.Errorf("again: %+v, %v", again, err)
	}
	order.Script = "false"
	if _, err := c.Run(t.Context(), order); status(err) != http.StatusConflict {
		t.Errorf("the key for another: %v", err)
	}
	await(t, "both to have their command", func() bool {
		j, err := c.Job(t.Context(), j.ID[:len(j.ID)-1])
		return err == nil && j.Counts == operator.JobCounts{Pending: 2}
	})
	parts, err := c.JobAgents(t.Context(), j.ID, operator.JobAgentFilter{After: 1, Limit: 5})
	if err != nil || len(parts) != 1 || parts[0].Agent != beta.Agent || parts[0].AgentName != "beta" {
		t.Fatalf("parts behind the first: %+v, %v", parts, err)
	}
	if cmd, err := c.Command(t.Context(), parts[0].Command); err != nil || !cmd.ExpiresAt.Equal(j.ExpiresAt) || cmd.CreatedBy != j.CreatedBy {
		t.Errorf("its command: %+v, %v", cmd, err)
	}
	if _, err := c.CancelJob(t.Context(), j.ID); err != nil {
		t.Fatal(err)
	}
	await(t, "the job to end", func() bool {
		all, err := c.Jobs(t.Context(), 10)
		return err == nil && len(all) == 1 && all[0].State == operator.JobDone && all[0].Counts == operator.JobCounts{Cancelled: 2} && all[0].Reason == "cancelled by first"
	})
	if parts, err = c.JobAgents(t.Context(), j.ID, operator.JobAgentFilter{Unwell: true}); err != nil || len(parts) != 2 {
		t.Errorf("unwell: %+v, %v", parts, err)
	}
	if _, err := c.Job(t.Context(), "nothing"); status(err) != http.StatusNotFound || !strings.Contains(err.Error(), "gururmm jobs") {
		t.Errorf("no such job: %v", err)
	}
}

func status(err error) int {
	p, _ := errors.AsType[wire.Problem](err)
	return p.Status
}
