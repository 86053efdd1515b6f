package evidence

import (
	"testing"
	"time"

	"gururmm/diagnosis"
	"gururmm/operator"
	"gururmm/selfcheck"
	"gururmm/wire"
)

// An agent that is ill makes one link after the other; each is told by a beacon, the newest
// first. What the links together show tells the mechanisms apart.
func TestLinksThatComeAndGo(t *testing.T) {
	lost, silent := selfcheck.Verdict{Code: selfcheck.CodeLinkTextLost}, selfcheck.Verdict{Code: selfcheck.CodeLinkSilent}
	connecting := selfcheck.Verdict{Code: selfcheck.CodeLinkConnecting}
	age := func(d time.Duration) *time.Duration { return &d }
	// sizes of texts that were read: so many of at most 512 bytes, and of 4 to 8 KiB.
	sizes := func(small, large uint64) map[string]selfcheck.ClassView {
		s := make([]uint64, len(selfcheck.SizeBuckets)+1)
		s[3], s[6] = small, large
		return map[string]selfcheck.ClassView{"text": {Count: small + large, Bytes: 300*small + 8000*large, Sizes: s}}
	}
	// link is one that has read some texts and misses others, of so many bytes together.
	link := func(id uint64, small, large, missing, bytes uint64, gap, verified time.Duration) func(*selfcheck.Snapshot) {
		return func(s *selfcheck.Snapshot) {
			l := &s.Link
			l.In.Frames = sizes(small, large)
			l.Ledger.Local = wire.Ledger{Link: wire.LinkID(id), Read: small + large}
			l.Ledger.Peer = &wire.Ledger{Link: wire.LinkID(id), Written: small + large + missing, WrittenBytes: 300*small + 8000*large + bytes}
			l.Ledger.Down = &selfcheck.Gap{Missing: missing, Age: gap}
			l.Phase = selfcheck.PhaseAuth
			if verified > 0 {
				l.Phase, l.VerifiedAge = selfcheck.PhaseVerified, age(verified)
			}
			l.In.TextAge = age(gap)
		}
	}
	type told struct {
		v      selfcheck.Verdict
		change func(*selfcheck.Snapshot)
	}
	begun := told{lost, link(1, 10, 2, 2, 8300, time.Second, time.Hour)} // the link in force when it began
	// alone is that one where the sizes tell nothing, so that no mechanism is out by them.
	alone := told{lost, func(s *selfcheck.Snapshot) {
		begun.change(s)
		s.Link.In.Frames, s.Link.Ledger.Peer.WrittenBytes = map[string]selfcheck.ClassView{"text": {Count: 11}}, 0
	}}
	connects := told{connecting, func(s *selfcheck.Snapshot) { s.Link.Phase, s.Link.Ledger = selfcheck.PhaseAuth, selfcheck.LedgerView{} }}
	for _, c := range []struct {
		name   string
		told   []told
		leader string // empty: whatever
		want   map[string]string
	}{
		{"the link in force when it began, alone", []told{connects, begun}, "path.text.all", map[string]string{"lost.which": "", "sizes": ""}},
		{"that, and no sizes known", []told{connects, alone}, "", map[string]string{"lost.which": "", "sizes": ""}},
		{"that, and a fresh one that reads nothing", []told{{connecting, link(2, 0, 0, 2, 600, time.Second, 0)}, begun}, "path.text.all", map[string]string{"lost.which": "all both_ends"}},
		{"nothing is read on fresh ones", []told{connects, {lost, link(3, 0, 0, 2, 600, time.Second, 0)}, {lost, link(2, 0, 0, 2, 600, time.Second, 0)}, begun},
			"path.text.all", map[string]string{"lost.which": "all both_ends", "verdict": "link.text.lost one_end"}},
		{"each lacks its first", []told{{lost, link(3, 5, 1, 1, 250, time.Second, 1500*time.Millisecond)}, {lost, link(2, 5, 1, 1, 250, time.Second, 1200*time.Millisecond)}, begun},
			"path.text.first", map[string]string{"lost.which": "first both_ends", "sizes": "alike both_ends"}},
		{"each is well for a while", []told{{lost, link(3, 8, 2, 2, 600, time.Second, 9*time.Second)}, {lost, link(2, 8, 2, 1, 300, time.Second, 8*time.Second)}, begun},
			"path.text.count", map[string]string{"lost.which": "after_some both_ends", "fresh_link": "while one_end"}},
		{"each lacks the large one", []told{{lost, link(3, 4, 0, 1, 8000, time.Second, 0)}, {lost, link(2, 4, 0, 1, 8000, time.Second, 0)}, {lost, link(1, 10, 0, 1, 8000, time.Second, time.Hour)}},
			"path.text.size", map[string]string{"sizes": "large both_ends"}},
		{"what was missing came on one of them", []told{{lost, link(3, 0, 0, 2, 600, time.Second, 0)}, {lost, func(s *selfcheck.Snapshot) {
			link(2, 2, 0, 2, 600, time.Second, 0)(s)
			s.Link.Ledger.Closed, s.Link.Ledger.ClosedAge = 1, age(3*time.Second)
		}}, begun}, "path.text.delayed", map[string]string{"ledger.down": "late both_ends", "verdict": "link.text.delayed one_end"}},
		{"what was missing long before came after all", []told{{lost, link(3, 0, 0, 2, 600, time.Second, 0)}, {lost, link(2, 0, 0, 2, 600, time.Second, 0)}, {lost, func(s *selfcheck.Snapshot) {
			begun.change(s)
			s.Link.Ledger.Closed, s.Link.Ledger.ClosedAge = 1, age(3*time.Hour)
		}}}, "path.text.all", map[string]string{"ledger.down": "", "verdict": "link.text.lost one_end"}},
		{"each goes silent where the large probe is due", []told{connects, {silent, func(s *selfcheck.Snapshot) {
			link(2, 4, 0, 0, 0, 0, 0)(s)
			s.Link.Phase, s.Link.Ledger.Down = selfcheck.PhaseProbing, nil
		}}}, "path.mtu", map[string]string{"probes": "large_fail one_end", "ping.down": "no one_end", "text.down": "stopped one_end"}},
		{"each is silent from the start", []told{connects, {silent, func(s *selfcheck.Snapshot) {
			s.Link.Phase, s.Link.In, s.Link.Ledger = selfcheck.PhaseAuth, selfcheck.TapView{}, selfcheck.LedgerView{}
		}}}, "path.halfopen", map[string]string{"probes": "", "text.down": "none one_end", "silence": "reconnected one_end"}},
		{"a loop that was started afresh stands again", []told{connects, {silent, nil}, {selfcheck.Verdict{Code: selfcheck.CodeAgentStalled + ".reader"}, func(s *selfcheck.Snapshot) {
			s.Loops["reader"] = selfcheck.LoopFacts{Pending: age(7 * time.Second)}
		}}}, "agent.reader.handler", map[string]string{"agent.loop": "reader one_end", "ping.down": "", "verdict": "agent.stalled.reader one_end"}},
		{"links that open and are not verified are no failed handshake", []told{{selfcheck.Verdict{Code: selfcheck.CodeLinkHandshake}, func(s *selfcheck.Snapshot) {
			s.Link.Phase, s.Link.Failure, s.Link.Attempts = selfcheck.PhaseAuth, &selfcheck.NetworkError{Type: "ws.closed"}, 3
			s.RejectedAge, s.RejectedCode = age(time.Second), wire.CodeBadSignature
		}}, {connecting, nil}}, "agent.rejected", map[string]string{"verdict": "", "handshake": "opens one_end", "ledger.digest": "same both_ends"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := healthy()
			h.Trace, h.Agent.Presence, h.Agent.Verdict, h.Agent.VerdictAt = nil, "out-of-band", string(c.told[0].v.Code), ago(time.Second)
			h.Agent.Links[0].State, h.Agent.Links[0].PeerRead = "connecting", nil
			h.Beacons = []operator.Beacon{}
			for i, b := range c.told {
				h.Beacons = append(h.Beacons, *beacon(t, time.Duration(i+1)*3*time.Second, b.v, b.change))
			}
			made := Case(h)
			for name, want := range c.want {
				got := ""
				for i, v := range compact(find(made, name)) {
					if i > 0 {
						got += ", "
					}
					got += v
				}
				if got != want {
					t.Errorf("%s: %q, want %q", name, got, want)
				}
			}
			if a := diagnosis.Diagnose(made); c.leader != "" && a.Ranking[0].ID != c.leader {
				t.Errorf("%s %.2f, %s, want %s", a.Ranking[0].ID, a.Ranking[0].Probability, a.Confidence.Why, c.leader)
			}
		})
	}
}

// compact leaves each value once.
func compact(values []string) (out []string) {
	seen := map[string]bool{}
	for _, v := range values {
		if !seen[v] {
			seen[v] = true
			out = append(out, v)
		}
	}
	return out
}

// A fault begins in the midst of a link, after texts that passed: which are lost is not known
// until a fresh link tells, so that no such mechanism is far ahead, and the next test is one
// that tells them apart.
func TestAFaultThatBeginsMidLink(t *testing.T) {
	age := func(d time.Duration) *time.Duration { return &d }
	h := healthy()
	h.Trace = trace(20*time.Second, "accepted", "claimed", "written", "lost")
	h.Agent.Presence, h.Agent.Verdict, h.Agent.VerdictAt, h.Agent.Links = "out-of-band", "link.text.lost", ago(time.Second), nil
	h.Beacons = beacons(t, 3*time.Second, selfcheck.Verdict{Code: selfcheck.CodeLinkTextLost}, func(s *selfcheck.Snapshot) {
		l := &s.Link
		l.In.Frames = map[string]selfcheck.ClassView{"text": {Count: 11}}
		l.In.TextAge, l.VerifiedAge = age(20*time.Second), age(time.Hour)
		l.Ledger.Local = wire.Ledger{Link: 1, Read: 12}
		l.Ledger.Peer = &wire.Ledger{Link: 1, Written: 14}
		l.Ledger.Down = &selfcheck.Gap{Missing: 2, Age: 9 * time.Second}
	})
	which := []string{"path.text.all", "path.text.size", "path.text.count", "path.text.first"}
	a := diagnosis.Diagnose(Case(h))
	first, last, found := 0.0, 1.0, 0
	for _, r := range a.Ranking {
		for _, id := range which {
			if r.ID == id {
				first, last, found = max(first, r.Probability), min(last, r.Probability), found+1
			}
		}
	}
	if found != len(which) || first > 10*last || a.Confidence.Word == diagnosis.WordProven || first > 0.7 {
		t.Errorf("%d of them, %.2f to %.2f, %s", found, first, last, a.Confidence.Word)
	}
	if len(a.Next) == 0 {
		t.Fatal("no test")
	}
	if n := a.Next[0]; !n.Probes() && n.Measures != "fresh_link" && n.Measures != "lost.which" {
		t.Errorf("the next test is %s", n.Measures)
	}
	// The server has a fresh link that reads nothing.
	none := uint64(0)
	h.Agent.Links = []wire.LinkView{{Link: 2, Generation: 4, State: "connecting", Written: 2, PeerRead: &none, AgeMS: 6000, PongAgeMS: new(int64(500))}}
	made := Case(h)
	if got := find(made, "lost.which"); len(got) != 1 || got[0] != "all both_ends" {
		t.Errorf("lost.which: %v", got)
	}
	if a := diagnosis.Diagnose(made); a.Ranking[0].ID != "path.text.all" {
		t.Errorf("%s leads", a.Ranking[0].ID)
	}
}

// What was proven of a trouble that is over is not brought back by the next one.
func TestATroubleThatIsOverStaysOver(t *testing.T) {
	stale := selfcheck.Verdict{Code: selfcheck.CodeRouteStale}
	silent := selfcheck.Verdict{Code: selfcheck.CodeLinkSilent}
	ok := selfcheck.Verdict{Code: selfcheck.CodeOK}
	word := func(age time.Duration, to selfcheck.Code) operator.AgentEvent {
		return operator.AgentEvent{Kind: operator.EventVerdict, At: *ago(age), To: string(to)}
	}
	told := func(age time.Duration, v selfcheck.Verdict) operator.Beacon { return *beacon(t, age, v, nil) }
	for _, c := range []struct {
		name    string
		beacons []operator.Beacon
		events  []operator.AgentEvent
		change  func(h *Held)
		want    string // the verdict
	}{
		{"well for long, by events", []operator.Beacon{told(3*time.Second, silent), told(70*time.Second, stale)},
			[]operator.AgentEvent{word(3*time.Second, silent.Code), word(60*time.Second, ok.Code), word(80*time.Second, stale.Code)}, nil, "link.silent one_end"},
		{"well for long, by beacons", []operator.Beacon{told(3*time.Second, silent), told(20*time.Second, ok), told(60*time.Second, ok), told(70*time.Second, stale)}, nil, nil, "link.silent one_end"},
		{"well for long, and not heard any more", []operator.Beacon{told(70*time.Second, stale)},
			[]operator.AgentEvent{word(60*time.Second, ok.Code), word(80*time.Second, stale.Code)}, func(h *Held) {
				h.Agent.Presence, h.Agent.Verdict, h.Agent.VerdictAt, h.Agent.LastSeen = "degraded", "ok", ago(60*time.Second), ago(20*time.Second)
			}, "ok one_end"},
		{"well for a moment", []operator.Beacon{told(3*time.Second, silent), told(70*time.Second, stale)},
			[]operator.AgentEvent{word(40*time.Second, silent.Code), word(60*time.Second, ok.Code), word(80*time.Second, stale.Code)}, nil, "route.stale one_end"},
		{"a command went the whole way after it", []operator.Beacon{told(3*time.Second, silent), told(70*time.Second, stale)}, nil, func(h *Held) { h.Trace = healthy().Trace }, "link.silent one_end"},
		{"one went the whole way before it", []operator.Beacon{told(3*time.Second, silent), told(50*time.Second, stale)}, nil, func(h *Held) { h.Trace = healthy().Trace }, "route.stale one_end"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := healthy()
			h.Trace, h.Agent.Presence, h.Agent.Verdict, h.Agent.VerdictAt = nil, "out-of-band", "link.silent", ago(time.Second)
			h.Agent.Links, h.Beacons, h.Events = nil, c.beacons, c.events
			if c.change != nil {
				c.change(&h)
			}
			if got := compact(find(Case(h), "verdict")); len(got) != 1 || got[0] != c.want {
				t.Errorf("verdict: %v, want %s", got, c.want)
			}
		})
	}
}

// A proof says when it was told, and whether the agent says since that it is over.
func TestAProofHasATime(t *testing.T) {
	hung := selfcheck.Verdict{Code: selfcheck.CodeAgentHung}
	for _, c := range []struct {
		name   string
		events []operator.AgentEvent
		change func(h *Held)
		want   string
	}{
		{"it lasts", nil, func(h *Held) { h.Agent.Verdict, h.Agent.Presence = "agent.hung", "out-of-band" }, "the agent's beacon of 11:59:25"},
		{"over, but not for long", []operator.AgentEvent{
			{Kind: operator.EventVerdict, At: *ago(27 * time.Second), To: "ok"}, {Kind: operator.EventVerdict, At: *ago(35 * time.Second), To: "agent.hung"},
		}, func(h *Held) {}, "the agent's beacon of 11:59:25 (it says that it is well since 11:59:33; a trouble is over 30 s after)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := healthy()
			h.Agent.VerdictAt, h.Beacons, h.Events = ago(time.Second), beacons(t, 35*time.Second, hung, nil), c.events
			c.change(&h)
			a := diagnosis.Diagnose(Case(h))
			if len(a.Proven) == 0 || a.Proven[0].By[0].Source != c.want {
				t.Errorf("proven: %+v, want by %s", a.Proven, c.want)
			}
		})
	}
}
