package evidence

import (
	"slices"
	"strings"
	"testing"
	"time"

	"gururmm/diagnosis"
	"gururmm/operator"
	"gururmm/selfcheck"
)

// What a ladder of inert texts came to is weighed, and leads to what it shows.
func TestALadderIsEvidence(t *testing.T) {
	lost := string(selfcheck.CodeLinkTextLost)
	event := func(age time.Duration, ch, to, verdict string) operator.AgentEvent {
		return operator.AgentEvent{Kind: operator.EventProbe, At: *ago(age), From: ch, To: to, Verdict: verdict}
	}
	link := operator.AgentEvent{Kind: operator.EventLink, At: *ago(time.Minute), To: "verified"}
	large := trace(time.Minute, "accepted", "claimed", "written", "lost")
	large.Command.Script = strings.Repeat("x", 20_000)
	for _, c := range []struct {
		name   string
		change func(h *Held)
		has    map[string][]string
		leads  string // empty: nothing is said of it
		probed bool   // the tests to make next have no ladder among them
	}{
		{"none", func(h *Held) {}, map[string][]string{"probes": {"pass"}, "sizes": nil, "ledger.down": {"even"}}, "well", false},
		{"large ones lost, and links verified since", func(h *Held) {
			h.Events = []operator.AgentEvent{link, event(5*time.Minute, "link", operator.ProbeLargeLost, lost)}
		},
			map[string][]string{"probes": {"large_fail"}, "sizes": {"large"}, "ledger.down": {"gap"}, "verdict": nil, "stage.result_stored": nil}, "path.text.size", true},
		{"large ones gone, and nobody proved it", func(h *Held) {
			h.Events = []operator.AgentEvent{event(time.Minute, "link", operator.ProbeLargeLost, "")}
		},
			map[string][]string{"probes": {"large_fail"}, "sizes": {"large"}, "ledger.down": {"even"}}, "", true},
		{"all passed before a command was lost", func(h *Held) {
			h.Trace = large
			h.Events = []operator.AgentEvent{event(2*time.Minute, "link", operator.ProbePassed, "")}
		}, map[string][]string{"probes": nil, "sizes": {"large"}, "ledger.down": {"gap"}}, "path.text.size", false},
		{"all passed before a link was ill", func(h *Held) {
			h.Events = []operator.AgentEvent{{Kind: operator.EventLink, At: *ago(20 * time.Second), To: "ended", Verdict: lost}, event(30*time.Second, "link", operator.ProbePassed, "")}
		}, map[string][]string{"sizes": nil, "ledger.down": {"gap"}}, "", false},
		{"all pass", func(h *Held) {
			h.Events = []operator.AgentEvent{event(30*time.Second, "link", operator.ProbePassed, "")}
		},
			map[string][]string{"probes": {"pass"}, "sizes": nil}, "well", true},
		{"a newer one passes", func(h *Held) {
			h.Events = []operator.AgentEvent{event(30*time.Second, "link", operator.ProbePassed, ""), event(5*time.Minute, "link", operator.ProbeLargeLost, lost)}
		}, map[string][]string{"probes": {"pass"}, "sizes": nil, "ledger.down": {"even"}}, "well", true},
		{"by the second door only", func(h *Held) {
			h.Events = []operator.AgentEvent{event(time.Minute, "oob", operator.ProbeLargeLost, "")}
		},
			map[string][]string{"probes": {"pass"}, "sizes": nil}, "well", false},
		{"long ago", func(h *Held) {
			h.Events = []operator.AgentEvent{event(2*time.Hour, "link", operator.ProbeLargeLost, lost)}
		},
			map[string][]string{"probes": {"pass"}, "sizes": nil}, "well", false},
		{"all lost, and mended since", func(h *Held) {
			h.Events = []operator.AgentEvent{link, event(5*time.Minute, "link", operator.ProbeAllLost, lost)}
		},
			map[string][]string{"probes": {"pass"}, "sizes": nil, "ledger.down": {"even"}}, "well", false},
		{"all lost", func(h *Held) {
			h.Agent.Presence, h.Agent.Links = "out-of-band", nil
			h.Events = []operator.AgentEvent{event(time.Minute, "link", operator.ProbeAllLost, lost)}
		}, map[string][]string{"probes": {"all_fail"}, "sizes": {"alike"}, "ledger.down": {"gap"}}, "path.text.all", true},
		{"a command larger than what verifies a link is lost", func(h *Held) { h.Trace = large },
			map[string][]string{"probes": nil, "sizes": {"large"}, "ledger.down": {"gap"}}, "path.text.size", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := healthy()
			c.change(&h)
			got := Case(h)
			for name, want := range c.has {
				var values []string
				for _, v := range find(got, name) {
					v, _, _ = strings.Cut(v, " ") // but for the grade
					values = append(values, v)
				}
				if !slices.Equal(values, want) {
					t.Errorf("%s is %v, want %v", name, values, want)
				}
			}
			a := diagnosis.Diagnose(got)
			if c.leads != "" && a.Ranking[0].ID != c.leads {
				t.Errorf("%s leads, want %s", a.Ranking[0].ID, c.leads)
			}
			if probes := slices.ContainsFunc(a.Next, diagnosis.Test.Probes); c.probed && probes {
				t.Errorf("a ladder is asked for again: %+v", a.Next)
			}
			for _, test := range a.Next {
				if test.Probes() && test.Run[0] != "gururmm probe agent-a" {
					t.Errorf("to be typed: %q", test.Run)
				}
			}
		})
	}
	h := healthy()
	h.Trace = large
	if a := diagnosis.Diagnose(Case(h)); len(a.Next) == 0 || !a.Next[0].Probes() {
		t.Errorf("a large command is lost, and no ladder is the next test: %+v", a.Next)
	}
}
