//go:build unix

package lab_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gururmm/lab/harness"
	"gururmm/operator"
	"gururmm/selfcheck"
	"gururmm/wire"
)

// otherBoot makes a copy pass for another machine, or for a twin with the same fingerprint.
var (
	otherBoot    = "GURURMM_BOOT_ID=11111111-2222-3333-4444-555555555555"
	otherMachine = "GURURMM_FINGERPRINT=" + strings.Repeat("ab", 32)
)

// clone starts a copy of the agent's machine.
func (s *scene) clone(env ...string) *harness.Agent {
	s.t.Helper()
	c, err := s.agent.Clone("clone")
	if err != nil {
		s.t.Fatal(err)
	}
	c.Env = env
	if err := c.Start(); err != nil {
		s.t.Fatal(err)
	}
	return c
}

// bothTold waits until the server and both guardians know that they are two.
func (s *scene) bothTold(clone *harness.Agent) {
	s.t.Helper()
	s.eventually("both machines and the operator to be told", func() (bool, error) {
		a, err := s.Client().Agent(s.t.Context(), s.agent.ID)
		if err != nil {
			return false, err
		}
		said := []string{a.Presence}
		for _, m := range []*harness.Agent{s.agent, clone} {
			st, err := m.Status(s.t.Context())
			if err != nil {
				return false, err
			}
			said = append(said, string(st.Verdict.Code))
		}
		want := []string{"duplicate", string(selfcheck.CodeRouteDuplicate), string(selfcheck.CodeRouteDuplicate)}
		return strings.Join(said, " ") == strings.Join(want, " "), fmt.Errorf("they say %v", said)
	})
}

// whoRan orders a command that notes on which machine it ran.
func (s *scene) whoRan(agent string) (o *order, who func() string) {
	s.t.Helper()
	file := filepath.Join(s.Dir, "who-"+wire.NewID())
	was := s.agent.ID
	s.agent.ID = agent
	defer func() { s.agent.ID = was }()
	o = s.submit(fmt.Sprintf(`tr '\0' ' ' < /proc/$PPID/cmdline > '%s'`, file)) // the worker's, with its state directory
	return o, func() string {
		raw, err := os.ReadFile(file)
		if err != nil {
			return err.Error()
		}
		if strings.Contains(string(raw), filepath.Join(s.Dir, "clone")) {
			return "clone"
		}
		return "original"
	}
}

// became waits for the agent that the clone has become, verified.
func (s *scene) became() operator.Agent {
	s.t.Helper()
	var found []operator.Agent
	s.eventually("the clone to be an agent of its own", func() (bool, error) {
		all, err := s.Client().Agents(s.t.Context())
		if err != nil {
			return false, err
		}
		found = nil
		for _, a := range all {
			if a.ID != s.agent.ID {
				found = append(found, a)
			}
		}
		if len(found) != 1 {
			return false, fmt.Errorf("%d new agents", len(found))
		}
		return found[0].Presence == "verified", fmt.Errorf("it is %s", found[0].Presence)
	})
	if found[0].Was != s.agent.ID || found[0].Site == "" {
		s.t.Errorf("the new agent was %q, site %q", found[0].Was, found[0].Site)
	}
	return found[0]
}

// TestCloneBecomesAnAgentOfItsOwn: a copied machine is seen, gets nothing, and after
// the operator's word takes a new identity, once, wherever it is killed meanwhile.
func TestCloneBecomesAnAgentOfItsOwn(t *testing.T) {
	for _, c := range []struct {
		name  string
		env   []string
		dies  string // with this step just done
		links string // put on the path
	}{
		{name: "another machine", env: []string{otherBoot, otherMachine}},
		{name: "a twin that looks the same", env: []string{otherBoot}},
		{name: "another directory on the same machine"},
		{name: "by the second door alone", env: []string{otherBoot, otherMachine}, links: "both drop-text"},
		{name: "killed once its key is drawn", env: []string{otherBoot, otherMachine}, dies: "renew.drawn"},
		{name: "killed once the token is traded", env: []string{otherBoot}, dies: "renew.traded"},
		{name: "killed once the old state is aside", env: []string{otherBoot, otherMachine}, dies: "renew.aside"},
		{name: "killed once the identity is in place", env: []string{otherBoot}, dies: "renew.placed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newScene(t)
			if c.links != "" {
				s.order(c.links)
			}
			before := s.status()
			clone := s.clone(c.env...)
			s.bothTold(clone)
			waiting, who := s.whoRan(s.agent.ID)
			kept := before.Snapshot.Worker.Instance
			shown := s.shown(t, kept)
			if c.dies != "" {
				s.fault(c.dies, true)
			}
			if waiting.lines() != 0 {
				t.Fatal("the command went to one of two by guess")
			}
			if out, words, code, err := s.Operator(t.Context(), "agents", "resolve", s.agent.ID, "--keep", kept, "--yes"); err != nil || code != 0 {
				t.Fatalf("resolve: exit %d, %s%s, %v\n%s", code, out, words, err, shown)
			}
			if c.dies != "" {
				select {
				case <-clone.Guardian().Done():
				case <-t.Context().Done():
				}
				if err := clone.Start(); err != nil {
					t.Fatal(err)
				}
			}
			s.completed(waiting)
			if got := who(); got != "original" {
				t.Errorf("the command ran on %q", got)
			}
			if c.links != "" {
				s.order("clear")
			}
			now := s.became()
			s.verified()
			theirs, who := s.whoRan(now.ID)
			s.completed(theirs)
			if got := who(); got != "clone" {
				t.Errorf("the new agent's command ran on %q", got)
			}
			after := s.status()
			if after.Snapshot.Worker.Instance != kept || after.Guardian.PID != before.Guardian.PID {
				t.Errorf("the kept machine was touched: %s, process %d; then %s, %d", kept, before.Guardian.PID, after.Snapshot.Worker.Instance, after.Guardian.PID)
			}
			for _, pattern := range []string{"was-" + s.agent.ID, "identity.json.replaced-*"} {
				if found, err := filepath.Glob(filepath.Join(clone.Dir, pattern)); err != nil || len(found) != 1 {
					t.Errorf("of the old identity %s is kept %d times, %v", pattern, len(found), err)
				}
			}
			if found, _ := filepath.Glob(filepath.Join(clone.Dir, "renewal.json*")); len(found) != 0 {
				t.Errorf("left over: %v", found)
			}
			out, _, _, err := s.Operator(t.Context(), "agents", "show", s.agent.ID)
			// Once for each of its starts that the server heard of before: one, unless it died meanwhile.
			starts := strings.Count(out, "\nmachine ") - 1
			if err != nil || starts < 1 || c.dies == "" && starts != 1 || strings.Contains(out, "takes a new identity") || strings.Count(out, "has taken a new identity") != starts {
				t.Errorf("once it has one, agents show says %v:\n%s", err, out)
			}
			out, words, code, err := s.Operator(t.Context(), "agents", "resolve", s.agent.ID, "--keep", kept, "--yes")
			if err != nil || code == 0 || !strings.Contains(words, "only one machine holds") {
				t.Errorf("a second resolve: exit %d, %s%s, %v", code, out, words, err)
			}
			s.allOnce()
		})
	}
}

// shown checks what the operator is shown of the two machines.
func (s *scene) shown(t *testing.T, kept string) string {
	t.Helper()
	out, words, code, err := s.Operator(t.Context(), "agents", "show", s.agent.ID)
	if err != nil || code != 0 || !strings.Contains(out, kept) || strings.Count(out, "alive, and one of several") != 2 {
		t.Errorf("agents show: exit %d, %s, %v\n%s", code, words, err, out)
	}
	for line := range strings.Lines(out) {
		if n := len([]rune(strings.TrimRight(line, "\n"))); n > 80 {
			t.Errorf("%d columns: %s", n, line)
		}
	}
	raw, _, _, err := s.Operator(t.Context(), "agents", "show", s.agent.ID, "--json")
	var a operator.Agent
	if err := errFirst(err, json.Unmarshal([]byte(raw), &a)); err != nil || len(a.Copies) != 2 {
		t.Errorf("agents show --json: %v, %+v", err, a.Copies)
	}
	return out
}
