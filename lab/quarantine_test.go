//go:build unix

package lab_test

import (
	"database/sql"
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"gururmm/checkup"
	"gururmm/lab/harness"
	"gururmm/selfcheck"
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
	s.takenForNoFault()
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

// takenForNoFault holds that an endpoint in quarantine does not blame the network: the verdict
// is a quarantine's, no step is taken for another one, no bundle made, and the doctor finds the
// way open.
func (s *scene) takenForNoFault() {
	s.t.Helper()
	s.verdict(selfcheck.CodeLinkQuarantined)
	st := s.status()
	if st.Verdict.Severity != selfcheck.SeverityWarning || !strings.Contains(st.Verdict.Sentence, "it looks odd") || !strings.Contains(st.Verdict.Action, "--lift") {
		s.t.Errorf("verdict %+v", st.Verdict)
	}
	s.eventually("the second door to deliver", func() (bool, error) {
		st := s.status()
		return st.Snapshot.OOB.Delivering, fmt.Errorf("steps %+v", st.Steps)
	})
	for _, step := range s.status().Steps {
		if step.Verdict == selfcheck.CodeLinkHandshake {
			s.t.Errorf("step %s for %s: %s", step.Kind, step.Verdict, step.Reason)
		}
	}
	if out, said, _, err := s.agent.Command(s.t.Context(), "events"); err != nil || strings.Contains(out, "network error") || !strings.Contains(out, string(selfcheck.CodeLinkQuarantined)) {
		s.t.Errorf("the endpoint's events, %v:\n%s%s", err, out, said)
	}
	report := s.examine("--only", "upgrade,echo")
	if r := report.found("", "upgrade"); r.Status != checkup.Warn || !strings.Contains(r.Seen, "quarantined") || report.code != 0 {
		s.t.Errorf("the doctor's exit code is %d: %+v", report.code, report.Results)
	}
	bundles, err := s.Client().Bundles(s.t.Context(), s.agent.ID)
	if err != nil || len(bundles) != 0 {
		s.t.Errorf("bundles: %v, %+v", err, bundles)
	}
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
