//go:build unix

package lab_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gururmm/lab/fleet"
	"gururmm/lab/harness"
	"gururmm/operator"
	"gururmm/wire"
)

// TestAJobOnTwoEndpoints: one script on two real endpoints; what they wrote the same is told
// once, the one that fails is named, and a server that is killed goes on.
func TestAJobOnTwoEndpoints(t *testing.T) {
	s := newScene(t)
	second, err := s.Enroll(t.Context(), "second")
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Start(); err != nil {
		t.Fatal(err)
	}
	s.eventually("the second endpoint to be verified", func() (bool, error) {
		a, err := s.Client().Agent(t.Context(), second.ID)
		return err == nil && a.Presence == "verified", err
	})
	if _, words, code, err := s.Operator(t.Context(), "exec", "--all", "--", "true"); err != nil || code != 255 || !strings.Contains(words, "2 endpoints are chosen") {
		t.Fatalf("with nobody to ask: exit %d, %q, %v", code, words, err)
	}
	if out := s.says("exec", "--all", "--yes", "--output", "--", "echo", "same here"); !strings.Contains(out, "== 2 endpoints (completed): ") || strings.Count(out, "same here") != 1 {
		t.Errorf("both ran:\n%s", out)
	}

	s.says("agents", "tag", s.agent.ID, second.ID, "--add", "web")
	ran := filepath.Join(s.Dir, "ran")
	script := fmt.Sprintf(`tr '\0' ' ' < /proc/$PPID/cmdline >> '%s'; echo >> '%s'; ! grep -q '%s' /proc/$PPID/cmdline || exit 3`, ran, ran, filepath.Join(s.Dir, "second"))
	out, words, code, err := s.Operator(t.Context(), "exec", "--tag", "web", "--yes", "--", script)
	if err != nil || code != 1 || !strings.Contains(words, "of 2 completed") || strings.Count(out, "failed  3") != 1 {
		t.Errorf("one failed: exit %d, %v\n%s%s", code, err, out, words)
	}
	once := func(file string) {
		t.Helper()
		raw, err := os.ReadFile(file)
		if n := strings.Count(string(raw), "\n"); err != nil || n != 2 || strings.Count(string(raw), filepath.Join(s.Dir, "second")) == 0 {
			t.Errorf("ran %d times: %v\n%s", n, err, raw)
		}
	}
	once(ran)

	later := filepath.Join(s.Dir, "later")
	script = fmt.Sprintf(`tr '\0' ' ' < /proc/$PPID/cmdline >> '%s'; echo >> '%s'`, later, later)
	id := strings.TrimSpace(s.says("exec", "--all", "--at-once", "1", "--expires", "5m", "--yes", "--detach", "--", script))
	s.Server().KillAlone()
	if err := s.StartServer(t.Context()); err != nil {
		t.Fatal(err)
	}
	var j operator.Job
	s.eventually("the job to be done", func() (bool, error) {
		j, err = s.Client().Job(t.Context(), id)
		return err == nil && j.State == operator.JobDone, fmt.Errorf("it is %s %+v, %v", j.State, j.Counts, err)
	})
	if j.Counts != (operator.JobCounts{Completed: 2}) {
		t.Errorf("counts %+v", j.Counts)
	}
	once(later)
}

// TestAJobOfAFleet: two hundred endpoints that are played get a script once each.
func TestAJobOfAFleet(t *testing.T) {
	bin, dir := room(t)
	stack, err := harness.Start(t.Context(), harness.Options{Bin: bin, Dir: dir, Policy: wire.Policy{Version: 1}})
	if err != nil {
		t.Fatal(err)
	}
	defer stack.Close()
	const agents = 200
	token, err := stack.Client().CreateEnrollToken(t.Context(), operator.NewEnrollToken{Uses: agents})
	if err != nil {
		t.Fatal(err)
	}
	mix, err := fleet.ParseMix("idle=1")
	if err != nil {
		t.Fatal(err)
	}
	url, trust, operatorToken := stack.Door()
	held, report := make(chan struct{}), make(chan error, 1)
	go func() {
		r, err := fleet.Run(t.Context(), fleet.Options{
			Agents: agents, Server: url, TLS: trust, EnrollToken: token.Token, Operator: operatorToken, Mix: mix, Seed: 5, Hold: 20 * time.Second,
			Progress: func(s string) {
				if t.Log(s); strings.HasPrefix(s, "all verified") {
					close(held)
				}
			},
		})
		for _, wrong := range r.Wrong {
			t.Error(wrong)
		}
		report <- err
	}()
	select {
	case <-held:
	case err := <-report:
		t.Fatalf("the fleet ended before it was held: %v", err)
	}
	began := time.Now()
	out, words, code, err := stack.Operator(t.Context(), "exec", "--all", "--yes", "--json", "--", "true")
	t.Logf("after %v: exit %d", time.Since(began), code)
	var j operator.Job
	if err := errFirst(err, json.Unmarshal([]byte(out), &j)); err != nil || code != 0 || j.Counts != (operator.JobCounts{Completed: agents}) {
		t.Errorf("exit %d, %v, %+v\n%s", code, err, j.Counts, words)
	}
	if err := <-report; err != nil {
		t.Fatal(err)
	}
	for _, k := range []string{"completed", "failed"} {
		all, err := stack.Client().Commands(t.Context(), operator.Filter{State: wire.State(k), Limit: 500})
		if err != nil || len(all) != map[string]int{"completed": agents}[k] {
			t.Errorf("%d commands are %s, %v", len(all), k, err)
		}
	}
}
