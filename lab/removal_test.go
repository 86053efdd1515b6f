//go:build unix

package lab_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gururmm/operator"
	"gururmm/selfcheck"
	"gururmm/wire"
)

// TestRemoval: an endpoint that was removed is let in nowhere from that moment on, is told
// so, and neither dies nor hammers; enrolled again it is another agent.
func TestRemoval(t *testing.T) {
	s := newScene(t)
	s.verified()
	s.completed(s.submit(""))
	running := s.sleeper()
	if _, words, code, err := s.Operator(t.Context(), "agents", "remove", s.agent.ID); err != nil || code != 1 || !strings.Contains(words, "--yes") {
		t.Fatalf("with nobody to ask: exit %d, %q, %v", code, words, err)
	}
	s.verified()
	var removed operator.Removal
	s.words(&removed, "agents", "remove", s.agent.ID, "--yes", "--json")
	if removed.Agent != s.agent.ID || removed.Ended != 1 || removed.Purged {
		t.Errorf("removed: %+v", removed)
	}
	if c := s.ended(running.order); c.State != wire.StateInterrupted || !strings.Contains(c.Reason, "removed") {
		t.Errorf("what ran is %s (%s)", c.State, c.Reason)
	}
	for _, args := range [][]string{{"exec", s.agent.ID, "--", "true"}, {"direct", s.agent.ID, "poll"}, {"agents", "resolve", s.agent.ID, "--keep", "x", "--yes"}} {
		if _, words, code, err := s.Operator(t.Context(), args...); err != nil || code == 0 || !strings.Contains(words, "was removed by") {
			t.Errorf("%v: exit %d, %q, %v", args, code, words, err)
		}
	}
	var list []operator.Agent
	if s.words(&list, "agents", "--json"); len(list) != 0 {
		t.Errorf("agents: %+v", list)
	}
	if s.words(&list, "agents", "--removed", "--json"); len(list) != 1 || list[0].Presence != "removed" {
		t.Errorf("removed agents: %+v", list)
	}
	var commands []operator.Command
	if s.words(&commands, "commands", "--agent", s.agent.ID, "--json"); len(commands) != 2 {
		t.Errorf("its commands: %+v", commands)
	}

	pid := s.agent.Guardian().PID()
	told := func() {
		t.Helper()
		s.eventually("the endpoint to be told", func() (bool, error) {
			out, _, code, err := s.agent.StatusCommand(t.Context())
			return code == 1 && strings.Contains(out, "This agent was removed from the server") && strings.Contains(out, "enroll"),
				errors.Join(err, fmt.Errorf("exit %d: %s", code, out))
		})
	}
	told()
	st := s.status()
	if st.Verdict.Code != selfcheck.CodeAgentRemoved || st.Worker.PID == 0 || s.agent.Guardian().PID() != pid {
		t.Errorf("verdict %s, worker %d, guardian %d", st.Verdict.Code, st.Worker.PID, s.agent.Guardian().PID())
	}
	for _, step := range st.Steps {
		if step.Verdict == selfcheck.CodeAgentRemoved {
			t.Errorf("it climbed: %+v", step)
		}
	}
	if out, _, code, err := s.agent.Doctor(t.Context(), "--only", "door"); code == 0 || !strings.Contains(out, "removed") {
		t.Errorf("doctor: exit %d, %s, %v", code, out, err)
	}
	// A server that was started afresh, and a guardian too, know it as well.
	if err := s.Server().Stop(); err != nil {
		t.Fatal(err)
	}
	if err := s.StartServer(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.agent.Guardian().KillAlone()
	if err := s.agent.Start(); err != nil {
		t.Fatal(err)
	}
	told()

	s.words(&removed, "agents", "remove", s.agent.ID, "--purge", "--yes", "--json")
	if _, words, code, err := s.Operator(t.Context(), "commands", "--agent", s.agent.ID); err != nil || code == 0 || !strings.Contains(words, "no agent") {
		t.Errorf("after the purge: exit %d, %q, %v", code, words, err)
	}

	if err := s.agent.Guardian().Stop(); err != nil {
		t.Fatal(err)
	}
	made, err := s.Client().CreateEnrollToken(t.Context(), operator.NewEnrollToken{Uses: 1})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(made.Token), 0o600); err != nil {
		t.Fatal(err)
	}
	out, said, code, err := s.agent.Command(t.Context(), "enroll", "--force", "--server", made.URL, "--pin", made.Pin, "--token-file", file)
	if err != nil || code != 0 {
		t.Fatalf("enroll again: exit %d, %s%s, %v", code, out, said, err)
	}
	if err := s.agent.Start(); err != nil {
		t.Fatal(err)
	}
	before := s.agent.ID
	s.eventually("the new agent to be verified", func() (bool, error) {
		all, err := s.Client().Agents(t.Context())
		if err != nil || len(all) != 1 {
			return false, errors.Join(err, fmt.Errorf("%d agents", len(all)))
		}
		s.agent.ID = all[0].ID
		return all[0].ID != before && all[0].Presence == "verified", fmt.Errorf("%s is %s", all[0].ID, all[0].Presence)
	})
	s.completed(s.submit(""))
}
