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

// prober plays a server that streams one probe, or refuses it.
func prober(t *testing.T, p operator.Probe, refusal wire.Problem, whole bool) (env map[string]string, asked *operator.NewProbe) {
	t.Helper()
	asked = new(operator.NewProbe)
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/agents/vm/probe", func(w http.ResponseWriter, r *http.Request) {
		if err := json.NewDecoder(r.Body).Decode(asked); err != nil {
			t.Error(err)
		}
		enc := json.NewEncoder(w)
		if refusal.Status != 0 {
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(refusal.Status)
			enc.Encode(refusal)
			return
		}
		enc.Encode(operator.ProbeEvent{Waiting: "waits for a \x1b[2Jlink"})
		for _, s := range p.Steps {
			enc.Encode(operator.ProbeEvent{Step: &s})
		}
		if whole {
			enc.Encode(operator.ProbeEvent{Probe: &p})
		}
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return map[string]string{"GURURMM_URL": server.URL, "GURURMM_TOKEN": "gro_x"}, asked
}

func ladder(ch wire.Channel, states ...string) operator.Probe {
	p := operator.Probe{ID: "p1", Agent: "0190-a", AgentName: "vm", Steps: []operator.ProbeStep{}}
	for i, s := range states {
		step := operator.ProbeStep{Channel: ch, Kind: operator.ProbeText, Bytes: 1024 << i, State: s}
		if s != operator.StepUntried {
			step.Written = new(time.Now())
		}
		switch s {
		case operator.StepPassed:
			step.ReadBy, step.RoundTripMS = "agent", new(1.25)
		case operator.StepLost:
			step.Verdict, step.Detail = "link.text.lost", "the link ended: \x1b[2Jit was given up"
		}
		p.Steps = append(p.Steps, step)
	}
	p.Outcomes = map[wire.Channel]string{ch: operator.Outcome(p.Steps, ch)}
	return p
}

func TestProbeAtTheOperators(t *testing.T) {
	const passed, lost, untried = operator.StepPassed, operator.StepLost, operator.StepUntried
	stopped := ladder(wire.ChannelLink, passed)
	stopped.Stopped = "the server is going down"
	for _, c := range []struct {
		name, args string
		p          operator.Probe
		refusal    wire.Problem
		code       int
		out, says  string
	}{
		{"all through", "probe vm", ladder(wire.ChannelOOB, passed, passed), wire.Problem{}, 0, "By the second door: all came through.", "waits for a [2Jlink"},
		{"some lost", "probe vm", ladder(wire.ChannelLink, passed, passed, lost, lost), wire.Problem{}, 1,
			"link     text  4 KiB  lost    yes      -        -\n  link.text.lost: the link ended: [2Jit was given up\nlink     text  8 KiB  lost    yes      -        -\n\n" +
				"By the link: the large ones are lost, the small ones come through.\nWhat that may be: gururmm diagnose vm\n", ""},
		{"as JSON", "probe vm --json", ladder(wire.ChannelLink, passed, lost), wire.Problem{}, 1, `"link": "large_lost"`, ""},
		{"no way", "probe vm", ladder(wire.ChannelLink, untried, untried), wire.Problem{}, 2, "link     text  1 KiB  untried  -", "has no way open"},
		{"ended early", "probe vm", stopped, wire.Problem{}, 2, "By the link", "ended early: the server is going down"},
		{"quarantined", "probe vm", operator.Probe{}, wire.NewProblem(http.StatusConflict, "Conflict", wire.ProblemQuarantined, "it is quarantined"), 2, "", "it is quarantined"},
		{"another size", "probe vm --sizes 1K,x", operator.Probe{}, wire.Problem{}, 2, "", "--sizes x: want bytes from 64 to 512K, as in 512 or 4K"},
		{"too large", "probe vm --sizes 513k", operator.Probe{}, wire.Problem{}, 2, "", "want 64 to 524288"},
		{"too many", "probe vm --sizes " + strings.Repeat("100,", 16) + "100", operator.Probe{}, wire.Problem{}, 2, "", "at most 16 are sent"},
		{"another channel", "probe vm --channel mail", operator.Probe{}, wire.Problem{}, 2, "", "want link, oob or both"},
		{"nobody named", "probe", operator.Probe{}, wire.Problem{}, 2, "", "AGENT is missing"},
	} {
		t.Run(c.name, func(t *testing.T) {
			env, _ := prober(t, c.p, c.refusal, true)
			out, errs, code := typed(t, env, strings.Fields(c.args)...)
			if code != c.code || !strings.Contains(out, c.out) || !strings.Contains(strings.Join(strings.Fields(errs), " "), c.says) || strings.Contains(out+errs, "\x1b") {
				t.Errorf("exit %d, want %d\n%s\n%s", code, c.code, out, errs)
			}
		})
	}
	env, asked := prober(t, ladder(wire.ChannelLink, passed), wire.Problem{}, true)
	if _, errs, code := typed(t, env, "probe", "vm", "--channel", "link", "--sizes", "512,4k"); code != 0 || len(asked.Channels) != 1 || asked.Channels[0] != wire.ChannelLink ||
		len(asked.Sizes) != 2 || asked.Sizes[1] != 4096 {
		t.Errorf("exit %d, %s, asked for %+v", code, errs, asked)
	}
	env, _ = prober(t, ladder(wire.ChannelLink, passed), wire.Problem{}, false)
	if out, errs, code := typed(t, env, "probe", "vm"); code != 2 || out != "" || !strings.Contains(errs, "EOF") {
		t.Errorf("a stream that breaks off: exit %d, %q, %q", code, out, errs)
	}
}

func TestDiagnoseProbesOnlyWhatIsSafe(t *testing.T) {
	for args, says := range map[string]string{
		"diagnose --probe --case " + startCase: "leave out --case",
		"diagnose vm --probe --as-case":        "leave out --case",
	} {
		if _, errs, code := typed(t, nil, strings.Fields(args)...); code != exitBadInput || !strings.Contains(errs, says) {
			t.Errorf("%s: exit %d, %q", args, code, errs)
		}
	}
	for presence, safe := range map[string]bool{"verified": true, "degraded": true, "out-of-band": true, "offline": false, "quarantined": false, "duplicate": false, "silent": false, "connecting": false} {
		if why := unsafeNow(operator.Agent{Presence: presence}); (why == "") != safe {
			t.Errorf("%s: %q", presence, why)
		}
	}
}

// A large command is lost, so that a ladder is the next test; it is made, and weighed at once.
func TestDiagnoseMakesTheProbeThatIsItsNextTest(t *testing.T) {
	now := time.Now()
	command := operator.Command{ID: "0190-1", State: wire.StatePending, Attempts: 1, Script: strings.Repeat("x", 20_000), CreatedAt: now.Add(-time.Minute)}
	stage := func(s wire.Stage, ch wire.Channel) operator.TraceEntry {
		return operator.TraceEntry{Stage: s, At: command.CreatedAt, Channel: ch, Attempt: 1}
	}
	agent := operator.Agent{ID: "0190-a", Name: "web-1", Site: "berlin", Presence: "verified", LastSeen: &now, LastVia: "text", Owed: 1,
		Links: []wire.LinkView{{Link: 7, State: "verified", Written: 9, PeerRead: new(uint64(9))}}}
	done := ladder(wire.ChannelLink, operator.StepPassed, operator.StepPassed, operator.StepLost)
	done.AgentName, done.StartedAt = agent.Name, now.Add(-time.Second)
	var refused bool
	events := operator.List[operator.AgentEvent]{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var answer any
		switch r.URL.Path {
		case "/v1/agents/web-1":
			answer = agent
		case "/v1/agents":
			answer = operator.List[operator.Agent]{Items: []operator.Agent{agent}}
		case "/v1/commands":
			answer = operator.List[operator.Command]{Items: []operator.Command{command}}
		case "/v1/commands/0190-1/trace":
			answer = operator.Trace{Command: command, Stopped: "Waiting.", Entries: []operator.TraceEntry{
				stage(wire.StageAccepted, ""), stage(wire.StageClaimed, wire.ChannelLink), stage(wire.StageWritten, wire.ChannelLink), stage("lost", wire.ChannelLink)}}
		case "/v1/beacons":
			answer = operator.List[operator.Beacon]{}
		case "/v1/events":
			answer = events
		case "/v1/agents/web-1/probe":
			if refused {
				w.WriteHeader(http.StatusConflict)
				answer = wire.NewProblem(http.StatusConflict, "Conflict", wire.ProblemConflict, "a probe of this agent is under way")
				break
			}
			events.Items = []operator.AgentEvent{{Agent: agent.ID, Kind: operator.EventProbe, At: now, From: "link", To: operator.ProbeLargeLost, Verdict: "link.text.lost"}}
			answer = operator.ProbeEvent{Probe: &done}
		default:
			http.NotFound(w, r)
			return
		}
		if err := json.NewEncoder(w).Encode(answer); err != nil {
			t.Error(err)
		}
	}))
	defer server.Close()
	env := map[string]string{"GURURMM_URL": server.URL, "GURURMM_TOKEN": "gro_x"}
	refused = true
	if out, errs, code := typed(t, env, "diagnose", "web-1", "--probe"); code != 0 || !strings.Contains(out, "$ gururmm probe web-1") || !strings.Contains(errs, "not probed: a probe of this agent is under way") {
		t.Errorf("refused: exit %d, %s\n%s", code, errs, out)
	}
	agent.Presence, refused = "silent", false
	if _, errs, code := typed(t, env, "diagnose", "web-1", "--probe"); code != 0 || !strings.Contains(errs, "not probed: ") || len(events.Items) > 0 {
		t.Errorf("not safe: exit %d, %s", code, errs)
	}
	agent.Presence = "verified"
	var again rankedAgain
	out, errs, code := typed(t, env, "diagnose", "web-1", "--probe", "--json")
	if err := json.Unmarshal([]byte(out), &again); code != 0 || err != nil || again.Probe == nil || again.After == nil {
		t.Fatalf("exit %d, %v, %s\n%s", code, err, errs, out)
	}
	if lead := again.After.Ranking[0]; lead.ID != "path.text.size" || lead.Probability <= again.Before.Ranking[0].Probability {
		t.Errorf("%+v leads, before it was %+v", lead.ID, again.Before.Ranking[0].ID)
	}
	if out, errs, code := typed(t, env, "diagnose", "web-1", "--probe"); code != 0 || !strings.Contains(out, "path.text.size") {
		t.Errorf("asked again: exit %d, %s\n%s", code, errs, out)
	}
}
