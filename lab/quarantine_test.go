//go:build unix

package lab_test

import (
	"database/sql"
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"gururmm/lab/harness"
	"gururmm/wire"
)

// TestQuarantine: no command runs, by nobody's mistake; what ran goes on; the endpoint
// is examined by the second door, and is itself again once it is lifted.
func TestQuarantine(t *testing.T) {
	s := newScene(t)
	running := s.sleeper()
	quarantine := func(args ...string) {
		t.Helper()
		out, words, code, err := s.Operator(t.Context(), append([]string{"agents", "quarantine", s.agent.ID}, args...)...)
		if err != nil || code != 0 {
			t.Fatalf("quarantine %v: exit %d, %s%s, %v", args, code, out, words, err)
		}
	}
	quarantine("--reason", "it looks odd")
	if _, words, code, err := s.Operator(t.Context(), "exec", s.agent.ID, "--", "true"); err != nil || code != 255 || !strings.Contains(words, "quarantine") {
		t.Errorf("exec on an endpoint in quarantine: exit %d, %q, %v", code, words, err)
	}
	s.presence("quarantined", 0)
	s.eventually("the endpoint to say so itself", func() (bool, error) {
		out, _, _, err := s.agent.StatusCommand(t.Context())
		return strings.Contains(out, "quarantined"), errFirst(err, fmt.Errorf("it says %s", out))
	})
	s.open(running)
	s.completed(running.order) // its result came by the second door
	if out, words, code, err := s.Operator(t.Context(), "direct", s.agent.ID, "restart_worker"); err != nil || code != 0 {
		t.Errorf("a directive: exit %d, %s%s, %v", code, out, words, err)
	}

	// A server that has forgotten it, as one restored from an older backup, runs nothing either.
	if err := s.Server().Stop(); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", filepath.Join(s.Dir, "server", "gururmm.db"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = db.Exec("UPDATE agents SET quarantined = 0")
	if err := errFirst(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	if err := s.StartServer(t.Context()); err != nil {
		t.Fatal(err)
	}
	// Neither does its next start, nor a worker that is started afresh.
	s.agent.Guardian().KillAlone()
	if err := s.agent.Start(); err != nil {
		t.Fatal(err)
	}
	refused := s.submit("")
	if c := s.ended(refused); c.State != wire.StateUndeliverable || !strings.Contains(c.Reason, "quarantined") || refused.lines() != 0 {
		t.Errorf("a forgetful server's command is %s (%s), ran %d times", c.State, c.Reason, refused.lines())
	}
	s.presence("quarantined", 1)
	if _, err := s.agent.SignalWorker(t.Context(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	refused = s.submit("")
	if c := s.ended(refused); c.State != wire.StateUndeliverable || refused.lines() != 0 {
		t.Errorf("a fresh worker's command is %s (%s), ran %d times", c.State, c.Reason, refused.lines())
	}

	quarantine("--lift")
	s.verified()
	s.completed(s.submit(""))
}

// presence waits until the operator is shown that word, and as many links.
func (s *scene) presence(want string, links int) {
	s.t.Helper()
	s.eventually("presence "+want, func() (bool, error) {
		a, err := s.Client().Agent(s.t.Context(), s.agent.ID)
		if err != nil {
			return false, harness.Final(err)
		}
		return a.Presence == want && len(a.Links) == links, fmt.Errorf("it is %s with %d links: %s", a.Presence, len(a.Links), a.Sentence)
	})
}
