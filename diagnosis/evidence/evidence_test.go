package evidence

import (
	"encoding/json"
	"slices"
	"testing"
	"time"

	"gururmm/diagnosis"
	"gururmm/operator"
	"gururmm/selfcheck"
	"gururmm/wire"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func ago(d time.Duration) *time.Time { return new(now.Add(-d)) }

// healthy is an agent that has just run a command.
func healthy() Held {
	id := "0190-a"
	read := uint64(20)
	return Held{
		Now: now,
		Agent: operator.Agent{
			ID: id, Name: "agent-a", Site: "site-1", Version: "v1.0.0", Presence: "verified", Verdict: "ok", VerdictAt: ago(time.Hour),
			LastSeen: ago(2 * time.Second), LastVia: "text", ClockSkew: new(int64(30)),
			Links: []wire.LinkView{{Link: 7, Generation: 3, State: "verified", Written: 20, Read: 30, PeerRead: &read, AgeMS: 60_000}},
		},
		Trace:  trace(time.Minute, "accepted", "claimed", "written", "read", "decoded", "verified", "journaled", "acked", "ack_read", "started", "finished", "result_written", "result_stored"),
		Events: []operator.AgentEvent{},
		Fleet:  []operator.Agent{{ID: id, Site: "site-1"}, {ID: "0190-b", Site: "site-1", Version: "v1.0.0", Presence: "verified"}},
	}
}

// trace is of a command given so long ago, by the link, as far as the stages say.
func trace(age time.Duration, stages ...wire.Stage) *operator.Trace {
	t := &operator.Trace{Command: operator.Command{ID: "0190-1", CreatedAt: now.Add(-age), State: wire.StateRunning}}
	for i, s := range stages {
		t.Entries = append(t.Entries, operator.TraceEntry{Stage: s, At: t.Command.CreatedAt.Add(time.Duration(i) * time.Millisecond), Channel: wire.ChannelLink, Attempt: 1})
		switch s {
		case wire.StageAckRead:
			t.Command.AckedAt = &t.Entries[i].At
		case wire.StageResultStored:
			t.Command.EndedAt, t.Command.State = &t.Entries[i].At, wire.StateCompleted
		}
	}
	return t
}

// beacon is one that came so long ago.
func beacon(t *testing.T, age time.Duration, v selfcheck.Verdict, change func(s *selfcheck.Snapshot)) *operator.Beacon {
	t.Helper()
	sec := func(s float64) *time.Duration { return new(time.Duration(s * float64(time.Second))) }
	r := report{Verdict: v}
	s := &r.Snapshot
	s.Worker.Running, s.Worker.Silent = true, sec(0.5)
	s.Loops = map[string]selfcheck.LoopFacts{"reader": {}, "dispatcher": {}, "writer": {}, "executor": {}}
	s.Jobs.Limit, s.Stages.Read = 8, 4
	s.Link.Phase, s.Link.PhaseAge = selfcheck.PhaseVerified, sec(600)
	s.Link.In = selfcheck.TapView{Frames: map[string]selfcheck.ClassView{"text": {Count: 20}}, PingAge: sec(3), TextAge: sec(5)}
	s.Link.Ledger.Local.Read, s.Link.Ledger.Peer, s.Link.Ledger.PeerVia = 20, &wire.Ledger{Written: 20}, "ping"
	if change != nil {
		change(s)
	}
	raw, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	return &operator.Beacon{ReceivedAt: now.Add(-age), Verdict: string(v.Code), Report: raw}
}

// onLink has a command written to that link a minute ago, and the agent on link 7 for so many seconds.
func onLink(t *testing.T, h *Held, link string, seconds float64) {
	h.Trace, h.Agent.Owed = trace(time.Minute, "accepted", "claimed", "written"), 1
	h.Trace.Entries[2].Link = link
	h.Beacons = beacons(t, time.Second, selfcheck.Verdict{Code: selfcheck.CodeOK}, func(s *selfcheck.Snapshot) {
		s.Link.ID, s.Link.VerifiedAge = 7, new(time.Duration(seconds*float64(time.Second)))
	})
}

func beacons(t *testing.T, age time.Duration, v selfcheck.Verdict, change func(s *selfcheck.Snapshot)) []operator.Beacon {
	t.Helper()
	return []operator.Beacon{*beacon(t, age, v, change)}
}

func find(c diagnosis.Case, name string) (values []string) {
	for _, o := range c.Observations {
		if o.Name == name {
			values = append(values, o.Value+" "+string(o.Grade))
		}
	}
	return values
}

// What is held makes these observations, and no others of that name; and it comes to this.
func TestWhatIsHeldComesTo(t *testing.T) {
	sec := func(s float64) *time.Duration { return new(time.Duration(s * float64(time.Second))) }
	lost := selfcheck.Verdict{Code: selfcheck.CodeLinkTextLost}
	for _, c := range []struct {
		name   string
		change func(t *testing.T, h *Held)
		want   map[string]string // name: "value grade"; empty: not known
		leader string            // empty: whatever
		word   string
	}{
		{name: "all is well", change: func(t *testing.T, h *Held) { h.Agent.Links[0].Queued = 0 }, leader: "well", word: diagnosis.WordProven, want: map[string]string{
			"stage.result_stored": "yes one_end", "ledger.down": "even both_ends", "heard": "now one_end", "fleet": "fine one_end", "site": "fine one_end",
			"version.peers": "yes one_end", "clock": "right both_ends", "instances": "one one_end", "drops": "rare one_end", "change": "", "agent.loop": "",
		}},
		{name: "idle, and never had a command", change: func(t *testing.T, h *Held) { h.Trace, h.Agent.Verdict = nil, "ok.idle" }, leader: "well", word: diagnosis.WordProven,
			want: map[string]string{"stage.claimed": "", "stage.ack_read": ""}},
		{name: "a command just given", change: func(t *testing.T, h *Held) { h.Trace = trace(time.Second, "accepted", "claimed", "written") },
			want: map[string]string{"stage.written": "yes one_end", "stage.ack_read": "", "stage.read": ""}},
		{name: "lost on the way", change: func(t *testing.T, h *Held) {
			h.Trace = trace(time.Minute, "accepted", "claimed", "written", "lost")
			h.Trace.Entries = append(h.Trace.Entries, operator.TraceEntry{Stage: wire.StageResultStored, Channel: wire.ChannelOOB})
			h.Agent.Presence, h.Agent.Links[0].State = "out-of-band", "connecting"
			h.Beacons = beacons(t, 5*time.Second, lost, func(s *selfcheck.Snapshot) {
				s.Link.Phase, s.Link.In.Frames, s.Link.Ledger.Local.Read = selfcheck.PhaseAuth, nil, 0
				s.Link.Ledger.Down = &selfcheck.Gap{Missing: 2, Age: 5 * time.Second}
			})
		}, leader: "path.text.all", want: map[string]string{
			"ledger.down": "gap both_ends", "stage.ack_read": "no one_end", "door": "runs both_ends", "verdict": "link.text.lost one_end", "verified": "no one_end",
			"text.down": "none one_end", "ping.down": "yes one_end", "agent.loop": "turns one_end", "ledger.owed": "", "stage.read": "",
		}},
		{name: "told lost, and read just now", change: func(t *testing.T, h *Held) {
			h.Trace = trace(time.Minute, "accepted", "claimed", "written", "lost", "read", "acked")
			for i := range h.Trace.Entries[4:] {
				h.Trace.Entries[4+i].At = *ago(time.Second)
			}
		}, leader: "path.text.delayed", word: diagnosis.WordProven, want: map[string]string{"stage.ack_read": "", "ledger.down": "late both_ends"}},
		{name: "lost, and read by the next attempt", change: func(t *testing.T, h *Held) {
			h.Trace = trace(time.Minute, "accepted", "claimed", "written", "lost", "claimed", "written", "read", "acked", "ack_read")
			for i := range h.Trace.Entries {
				e := &h.Trace.Entries[i]
				if e.Link = "07"; i > 3 {
					e.Link, e.Attempt = "08", 2
				}
			}
		}, want: map[string]string{"ledger.down": "gap both_ends", "stage.read": "yes one_end"}},
		{name: "told to be lost, and read after all", change: func(t *testing.T, h *Held) {
			h.Trace = trace(time.Minute, "accepted", "claimed", "written", "lost", "read", "acked", "ack_read")
		}, want: map[string]string{"ledger.down": "late both_ends", "stage.read": "yes one_end"}},
		{name: "went by the second door alone", change: func(t *testing.T, h *Held) {
			h.Trace = trace(time.Minute, "accepted")
			h.Trace.Entries = append(h.Trace.Entries, operator.TraceEntry{Stage: wire.StageResultStored, Channel: wire.ChannelOOB})
		}, want: map[string]string{"stage.claimed": "", "stage.ack_read": "", "door": "runs both_ends", "stage.result_stored": ""}},
		{name: "went by the link, and its end was told by the second door", change: func(t *testing.T, h *Held) {
			h.Trace = trace(time.Minute, "accepted", "claimed", "written")
			h.Trace.Command.EndedAt, h.Agent.Presence = ago(time.Second), "out-of-band"
			for _, s := range []wire.Stage{"read", "acked", "ack_read", "result_stored"} {
				e := operator.TraceEntry{Stage: s, Channel: wire.ChannelOOB, Attempt: 1, End: "agent"}
				if s == wire.StageAckRead || s == wire.StageResultStored {
					e.End = "server"
				}
				h.Trace.Entries = append(h.Trace.Entries, e)
			}
		}, want: map[string]string{"door": "", "stage.read": "yes one_end", "stage.acked": "yes one_end", "stage.ack_read": "no one_end", "stage.result_stored": ""}},
		{name: "a suspicion is an inference", change: func(t *testing.T, h *Held) {
			h.Beacons = beacons(t, 5*time.Second, selfcheck.Verdict{Code: selfcheck.CodeLinkTextSilent, Suspected: true}, nil)
		}, want: map[string]string{"verdict": "link.text.silent inferred"}},
		{name: "so is the server's", change: func(t *testing.T, h *Held) { h.Agent.Links[0].Verdict = "link.uplink.lost suspected" },
			want: map[string]string{"verdict": "link.uplink.lost inferred, ok one_end"}},
		{name: "an old beacon says nothing of now", change: func(t *testing.T, h *Held) { h.Beacons = beacons(t, 5*time.Minute, lost, nil) },
			want: map[string]string{"verdict": "ok one_end", "agent.loop": "", "ping.down": ""}},
		{name: "a newer word stands before a beacon", change: func(t *testing.T, h *Held) {
			h.Beacons, h.Agent.VerdictAt = beacons(t, time.Minute, lost, nil), ago(recovered)
		}, want: map[string]string{"verdict": "ok one_end", "agent.loop": ""}},
		{name: "and so does one that is said again and again", change: func(t *testing.T, h *Held) {
			h.Beacons, h.Agent.VerdictAt = beacons(t, time.Minute, lost, nil), ago(time.Second)
			h.Events = []operator.AgentEvent{
				{Kind: operator.EventVerdict, To: "ok.idle", At: *ago(time.Second)}, {Kind: operator.EventVerdict, To: "ok", At: *ago(recovered)},
				{Kind: operator.EventVerdict, To: "link.text.lost", At: *ago(time.Minute)},
			}
		}, want: map[string]string{"verdict": "ok one_end", "agent.loop": ""}},
		{name: "well for a moment only", change: func(t *testing.T, h *Held) {
			h.Beacons, h.Agent.VerdictAt = beacons(t, time.Minute, lost, func(s *selfcheck.Snapshot) {
				s.Link.Ledger.Local.Read, s.Link.Ledger.Local.Link, s.Link.Ledger.Peer.Written = 0, 7, 2
				s.Link.Ledger.Down, s.Link.In.Frames = &selfcheck.Gap{Missing: 2, Age: 5 * time.Second}, nil
			}), ago(time.Second)
		}, leader: "path.text.all", want: map[string]string{"verdict": "link.text.lost one_end"}},
		{name: "never written", change: func(t *testing.T, h *Held) {
			h.Trace, h.Agent.Owed = trace(time.Minute, "accepted", "claimed"), 1
			h.Agent.Links[0].Queued, h.Agent.Links[0].Written, h.Agent.Links[0].HeldMS = 1, 19, new(int64(4000))
			h.Agent.Links[0].PeerRead = nil
			h.Beacons = beacons(t, time.Second, selfcheck.Verdict{Code: selfcheck.CodeRouteUnwritten}, nil)
		}, leader: "server.unwritten", want: map[string]string{"stage.written": "no one_end", "server.queue": "standing one_end", "ledger.owed": "standing one_end"}},
		{name: "a message on its way", change: func(t *testing.T, h *Held) {
			h.Agent.Links[0].Queued, h.Agent.Links[0].HeldMS = 1, new(int64(3))
		}, want: map[string]string{"server.queue": ""}},
		{name: "a message that the network holds up", change: func(t *testing.T, h *Held) {
			h.Agent.Links[0].Queued = 1
		}, want: map[string]string{"server.queue": ""}},
		{name: "the dispatcher stands still", change: func(t *testing.T, h *Held) {
			h.Trace, h.Agent.Owed = trace(time.Minute, "accepted", "claimed", "written"), 1
			h.Beacons = beacons(t, time.Second, selfcheck.Verdict{Code: selfcheck.CodeAgentStalled + ".dispatcher"}, func(s *selfcheck.Snapshot) {
				s.Loops["dispatcher"] = selfcheck.LoopFacts{Pending: sec(30)}
			})
		}, leader: "agent.dispatcher", word: diagnosis.WordProven, want: map[string]string{"agent.loop": "dispatcher one_end", "agent.reader": "free one_end"}},
		{name: "a writer that waits for the network is not stalled", change: func(t *testing.T, h *Held) {
			h.Beacons = beacons(t, time.Second, selfcheck.Verdict{Code: selfcheck.CodeOK}, func(s *selfcheck.Snapshot) {
				s.Loops["writer"] = selfcheck.LoopFacts{Pending: sec(8), Waits: true}
			})
		}, want: map[string]string{"agent.loop": "turns one_end"}},
		{name: "a worker that is silent: its facts are old", change: func(t *testing.T, h *Held) {
			h.Trace = trace(time.Minute, "accepted", "claimed", "written")
			h.Beacons = beacons(t, time.Second, selfcheck.Verdict{Code: selfcheck.CodeAgentHung}, func(s *selfcheck.Snapshot) { s.Worker.Silent = sec(30) })
			h.Agent.LastVia = "beacon"
		}, leader: "agent.hung", word: diagnosis.WordProven, want: map[string]string{"agent.loop": "", "agent.process": ""}},
		{name: "refused", change: func(t *testing.T, h *Held) {
			h.Trace = trace(time.Minute, "accepted", "claimed", "written", "refused")
			h.Trace.Entries[3].Note = "the agent refused it: bad_signature (of another key)"
			h.Agent.Owed, h.Agent.Verdict = 1, "agent.rejected"
		}, leader: "agent.rejected", want: map[string]string{"refused": "signature both_ends"}},
		{name: "two machines", change: func(t *testing.T, h *Held) {
			h.Trace, h.Agent.Presence = trace(time.Minute, "accepted"), "duplicate"
			h.Agent.Copies = []operator.Copy{
				{Copy: wire.Copy{Instance: "1", BootID: "b", Fingerprint: "f"}, Standing: operator.CopyRival},
				{Copy: wire.Copy{Instance: "2", BootID: "c", Fingerprint: "g"}, Standing: operator.CopyRival},
			}
		}, leader: "identity.clone", want: map[string]string{"instances": "other_machine both_ends"}},
		{name: "it said that it stops", change: func(t *testing.T, h *Held) {
			h.Trace = trace(time.Minute, "accepted")
			h.Agent = operator.Agent{ID: "0190-a", Name: "agent-a", Presence: "offline", Stopped: true, LastSeen: ago(time.Hour), Owed: 1, Verdict: "ok"}
		}, leader: "agent.away", word: diagnosis.WordProven, want: map[string]string{"heard": "stopped one_end", "verdict": "", "stage.claimed": "no one_end"}},
		{name: "offline without a word", change: func(t *testing.T, h *Held) {
			h.Trace = trace(time.Minute, "accepted")
			h.Agent = operator.Agent{ID: "0190-a", Name: "agent-a", Presence: "offline", LastSeen: ago(time.Hour), Owed: 1}
		}, leader: "agent.away", want: map[string]string{"heard": "no one_end", "text.up": ""}},
		{name: "removed", change: func(t *testing.T, h *Held) {
			h.Trace = nil
			h.Agent = operator.Agent{ID: "0190-a", Name: "agent-a", Presence: "removed", RemovedAt: ago(time.Hour)}
		}, leader: "operator.removed", word: diagnosis.WordProven},
		{name: "updated an hour ago, and all of that version are ill", change: func(t *testing.T, h *Held) {
			h.Events = []operator.AgentEvent{{Kind: operator.EventVersion, From: "v0.9.0", To: "v1.0.0", At: now.Add(-time.Hour)}, {Kind: operator.EventVersion, From: "v0.8.0", To: "v0.9.0", At: now.Add(-72 * time.Hour)}}
			h.Fleet = nil
			for range 3 {
				h.Fleet = append(h.Fleet, operator.Agent{ID: "x", Site: "site-2", Version: "v1.0.0", Presence: "degraded"})
			}
		}, want: map[string]string{"change": "agent_update one_end", "version.peers": "no one_end", "fleet": "all one_end", "site": ""}},
		{name: "the server hears nothing of a link that carried a command before", change: func(t *testing.T, h *Held) {
			h.Agent.Presence, h.Agent.Links[0].Verdict, h.Agent.Verdict, h.Agent.LastSeen = "silent", "link.silent", "link.connecting", ago(100*time.Second)
		}, leader: "path.halfopen", want: map[string]string{"verdict": "link.silent one_end, link.connecting one_end"}},
		{name: "a proof outlives the link that it is of", change: func(t *testing.T, h *Held) {
			h.Trace = trace(time.Minute, "accepted", "claimed", "written", "read", "decoded", "verified", "journaled", "acked", "ack_read", "started", "finished", "result_written", "result_stored")
			h.Agent.Presence, h.Agent.Links, h.Agent.Verdict, h.Agent.LastSeen = "out-of-band", nil, "link.connecting", ago(time.Second)
			h.Events = []operator.AgentEvent{
				{Kind: operator.EventPresence, To: "out-of-band", At: now}, {Kind: operator.EventLink, To: "ended", Verdict: "link.uplink.lost", At: now.Add(-time.Second)},
				{Kind: operator.EventLink, To: "verified", At: now.Add(-time.Hour)},
			}
		}, leader: "path.uplink", want: map[string]string{"verdict": "link.uplink.lost one_end, link.connecting one_end", "ledger.up": "gap both_ends", "stage.result_stored": "", "text.up": ""}},
		{name: "and says why the next is not verified", change: func(t *testing.T, h *Held) {
			h.Agent.Presence, h.Agent.Links, h.Trace, h.Agent.LastVia = "out-of-band", nil, nil, "poll"
			h.Events = []operator.AgentEvent{{Kind: operator.EventLink, To: "ended", Verdict: "link.text.lost", At: now.Add(-time.Minute)}}
			h.Beacons = beacons(t, time.Second, selfcheck.Verdict{Code: selfcheck.CodeLinkHandshake}, func(s *selfcheck.Snapshot) {
				s.Link = selfcheck.LinkFacts{Phase: selfcheck.PhaseWaiting, Attempts: 2, Failure: &selfcheck.NetworkError{Type: "ws.closed"}}
			})
		}, want: map[string]string{"verdict": "link.text.lost one_end", "ledger.down": "gap both_ends", "handshake": ""}},
		{name: "it was well before the command was missed", change: func(t *testing.T, h *Held) {
			h.Trace, h.Agent.Owed, h.Agent.Presence = trace(8*time.Second, "accepted", "claimed", "written", "read", "released"), 1, "degraded"
			h.Beacons = beacons(t, 6*time.Second, selfcheck.Verdict{Code: selfcheck.CodeOK}, nil)
		}, want: map[string]string{"verdict": "", "agent.loop": "", "agent.reader": "", "agent.process": "runs one_end", "stage.read": "yes one_end", "stage.ack_read": "no one_end"}},
		{name: "and is well now that it is", change: func(t *testing.T, h *Held) {
			h.Trace, h.Agent.Owed, h.Agent.Presence = trace(time.Minute, "accepted", "claimed", "written", "read", "released"), 1, "degraded"
			h.Beacons = beacons(t, 6*time.Second, selfcheck.Verdict{Code: selfcheck.CodeOK}, nil)
		}, want: map[string]string{"verdict": "ok one_end", "agent.loop": "turns one_end"}},
		{name: "written to the link that the agent uses", change: func(t *testing.T, h *Held) { onLink(t, h, "0000000000000007", 600) }, want: map[string]string{"route": "same both_ends"}},
		{name: "written to another", change: func(t *testing.T, h *Held) { onLink(t, h, "0000000000000008", 600) }, leader: "route.zombie", want: map[string]string{"route": "other both_ends"}},
		{name: "written before it had that one", change: func(t *testing.T, h *Held) { onLink(t, h, "0000000000000008", 30) }, want: map[string]string{"route": ""}},
		{name: "until text has gone both ways again", change: func(t *testing.T, h *Held) {
			h.Events = []operator.AgentEvent{{Kind: operator.EventLink, To: "verified", At: now}, {Kind: operator.EventLink, To: "ended", Verdict: "link.uplink.lost", At: now.Add(-time.Second)}}
		}, leader: "well", word: diagnosis.WordProven, want: map[string]string{"ledger.up": "", "verdict": "ok one_end"}},
		{name: "of which the events do not tell yet", change: func(t *testing.T, h *Held) {
			h.Agent.VerifiedAt = ago(0)
			h.Events = []operator.AgentEvent{{Kind: operator.EventLink, To: "degraded", Verdict: "link.text.lost", At: now.Add(-time.Second)}}
		}, leader: "well", word: diagnosis.WordProven, want: map[string]string{"verdict": "ok one_end"}},
		{name: "or it is long ago", change: func(t *testing.T, h *Held) {
			h.Agent.Presence, h.Agent.Links = "offline", nil
			h.Events = []operator.AgentEvent{{Kind: operator.EventLink, To: "ended", Verdict: "link.text.lost", At: now.Add(-2 * time.Hour)}}
		}, want: map[string]string{"ledger.down": ""}},
		{name: "a command that ran says nothing of one under way", change: func(t *testing.T, h *Held) { h.Agent.Owed = 1 },
			want: map[string]string{"stage.result_stored": "", "stage.ack_read": "", "ledger.owed": ""}},
		{name: "pongs come", change: func(t *testing.T, h *Held) { h.Agent.Links[0].PongAgeMS = new(int64(20_000)) }, want: map[string]string{"pong.up": "yes one_end"}},
		{name: "and then no more", change: func(t *testing.T, h *Held) {
			h.Agent.Links[0].PongAgeMS, h.Agent.Links[0].PingPendingMS = new(int64(20_000)), new(int64(15_000))
		}, want: map[string]string{"pong.up": "no one_end"}},
		{name: "pongs come on a link that is fresher than the trouble", change: func(t *testing.T, h *Held) {
			h.Agent.Links[0].Link, h.Agent.Links[0].PongAgeMS, h.Agent.VerdictAt = 8, new(int64(2_000)), ago(time.Second)
			h.Beacons = beacons(t, 3*time.Second, selfcheck.Verdict{Code: selfcheck.CodeLinkSilent}, func(s *selfcheck.Snapshot) { s.Link.ID = 7 })
		}, want: map[string]string{"pong.up": ""}},
		{name: "links that fell silent, before there was time for a report", change: func(t *testing.T, h *Held) {
			h.Agent.Links[0].Link, h.Agent.Links[0].PongAgeMS, h.Agent.VerdictAt = 8, new(int64(2_000)), ago(time.Second)
			h.Beacons = beacons(t, 2*time.Second, selfcheck.Verdict{Code: selfcheck.CodeOK}, func(s *selfcheck.Snapshot) { s.Link.ID = 8 })
			h.Events = []operator.AgentEvent{
				{Kind: operator.EventLink, From: "connecting", To: "verified", At: *ago(2 * time.Second)},
				{Kind: operator.EventLink, From: "verified", To: "ended", Verdict: "link.silent", At: *ago(3 * time.Second)},
			}
		}, leader: "path.halfopen", want: map[string]string{"verdict": "link.silent one_end", "pong.up": "", "silence": "reconnected one_end"}},
		{name: "links that fell silent, for the server kept a text of them back", change: func(t *testing.T, h *Held) {
			h.Agent.Links[0].Link, h.Agent.VerdictAt = 8, ago(time.Second)
			h.Beacons = beacons(t, 2*time.Second, selfcheck.Verdict{Code: selfcheck.CodeLinkSilent}, func(s *selfcheck.Snapshot) { s.Link.ID = 8 })
			h.Events = []operator.AgentEvent{
				{Kind: operator.EventLink, From: "verified", To: "ended", Verdict: "link.silent", At: *ago(3 * time.Second)},
				{Kind: operator.EventLink, From: "verified", To: "ended", Verdict: "route.unwritten", At: *ago(8 * time.Second)},
			}
		}, leader: "server.unwritten", want: map[string]string{"verdict": "route.unwritten one_end"}},
		{name: "the server kept a text back, before it wrote a command that ran", change: func(t *testing.T, h *Held) {
			h.Beacons = beacons(t, 2*time.Second, selfcheck.Verdict{Code: selfcheck.CodeOK}, nil)
			h.Events = []operator.AgentEvent{
				{Kind: operator.EventLink, From: "connecting", To: "verified", At: h.Trace.Command.CreatedAt.Add(-time.Second)},
				{Kind: operator.EventLink, From: "verified", To: "ended", Verdict: "route.unwritten", At: h.Trace.Command.CreatedAt.Add(-2 * time.Second)},
			}
		}, want: map[string]string{"verdict": "ok one_end"}},
		{name: "the only agent there is: what was kept back, not the queue of its fresh link, tells", change: func(t *testing.T, h *Held) {
			h.Fleet, h.Agent.VerdictAt = h.Fleet[:1], ago(time.Second)
			h.Agent.Links[0].Link, h.Agent.Links[0].Queued = 8, 0
			h.Beacons = beacons(t, 2*time.Second, selfcheck.Verdict{Code: selfcheck.CodeLinkConnecting}, func(s *selfcheck.Snapshot) { s.Link.ID = 8 })
			h.Events = []operator.AgentEvent{{Kind: operator.EventLink, From: "verified", To: "ended", Verdict: "route.unwritten", Link: "0000000000000007", At: *ago(8 * time.Second)}}
		}, leader: "server.unwritten", want: map[string]string{"verdict": "route.unwritten one_end", "server.queue": ""}},
		{name: "the link fell silent, and the server had kept nothing of it back", change: func(t *testing.T, h *Held) {
			h.Agent.Links[0].Link, h.Agent.Links[0].Queued, h.Agent.VerdictAt = 8, 3, ago(time.Second)
			h.Beacons = beacons(t, 2*time.Second, selfcheck.Verdict{Code: selfcheck.CodeLinkSilent}, func(s *selfcheck.Snapshot) { s.Link.ID = 7 })
			h.Events = []operator.AgentEvent{{Kind: operator.EventLink, From: "verified", To: "ended", Link: "0000000000000007", At: *ago(3 * time.Second)}}
		}, leader: "path.halfopen", want: map[string]string{"server.queue": "empty one_end"}},
		{name: "another node's queue is not known", change: func(t *testing.T, h *Held) {
			h.Agent.Links[0].Node, h.Agent.Links[0].Queued, h.Agent.Links[0].HeldMS = "b", 1, new(int64(4000))
		}, want: map[string]string{"server.queue": ""}},
		{name: "kept back once, then links were verified and fell silent", change: func(t *testing.T, h *Held) {
			h.Agent.VerdictAt = ago(time.Second)
			h.Beacons = beacons(t, 2*time.Second, selfcheck.Verdict{Code: selfcheck.CodeLinkConnecting}, nil)
			h.Events = []operator.AgentEvent{
				{Kind: operator.EventVerdict, To: "link.connecting", At: *ago(2 * time.Second)},
				{Kind: operator.EventLink, From: "verified", To: "ended", Verdict: "link.silent", At: *ago(3 * time.Second)},
				{Kind: operator.EventLink, From: "connecting", To: "verified", At: *ago(20 * time.Second)},
				{Kind: operator.EventLink, From: "verified", To: "ended", Verdict: "route.unwritten", At: *ago(22 * time.Second)},
			}
		}, leader: "path.halfopen", want: map[string]string{"verdict": "link.silent one_end"}},
		{name: "kept back once, and the agent has said for long that it is well", change: func(t *testing.T, h *Held) {
			h.Agent.VerdictAt = ago(time.Second)
			h.Beacons = beacons(t, 90*time.Second, selfcheck.Verdict{Code: selfcheck.CodeOK}, nil)
			h.Events = []operator.AgentEvent{
				{Kind: operator.EventLink, From: "connecting", To: "verified", At: *ago(39 * time.Second)},
				{Kind: operator.EventLink, From: "verified", To: "ended", Verdict: "route.unwritten", At: *ago(40 * time.Second)},
			}
		}, leader: "well"},
		{name: "lost on the way half an hour ago, and a text kept back some minutes ago", change: func(t *testing.T, h *Held) {
			h.Trace, h.Agent.Presence, h.Agent.Links, h.Agent.Verdict = nil, "out-of-band", nil, ""
			h.Events = []operator.AgentEvent{
				{Kind: operator.EventLink, From: "connecting", To: "ended", Verdict: "route.unwritten", At: *ago(5 * time.Minute)},
				{Kind: operator.EventLink, From: "connecting", To: "ended", Verdict: "link.text.lost", At: *ago(30 * time.Minute)},
			}
		}, want: map[string]string{"verdict": "link.text.lost one_end"}},
		{name: "stopped, and a text was kept back for a moment as it was", change: func(t *testing.T, h *Held) {
			h.Agent.Stopped, h.Agent.Presence, h.Agent.Links = true, "stopped", nil
			h.Events = []operator.AgentEvent{{Kind: operator.EventLink, From: "verified", To: "ended", Verdict: "route.unwritten", At: *ago(30 * time.Second)}}
		}, leader: "agent.away", want: map[string]string{"verdict": ""}},
		{name: "a link that the server found silent", change: func(t *testing.T, h *Held) {
			h.Agent.VerdictAt = ago(time.Second)
			h.Beacons = beacons(t, 2*time.Second, selfcheck.Verdict{Code: selfcheck.CodeOK}, nil)
			h.Events = []operator.AgentEvent{{Kind: operator.EventLink, From: "degraded", To: "ended", Verdict: "link.silent", At: *ago(3 * time.Second)}}
		}, want: map[string]string{"verdict": "ok one_end", "silence": ""}},
		{name: "none has ever come", change: func(t *testing.T, h *Held) { h.Agent.Links[0].AgeMS = 100_000 }, want: map[string]string{"pong.up": "no one_end"}},
		{name: "none yet", change: func(t *testing.T, h *Held) { h.Agent.Links[0].AgeMS = 10_000 }, want: map[string]string{"pong.up": ""}},
		{name: "another node would know", change: func(t *testing.T, h *Held) { h.Agent.Links[0].AgeMS, h.Agent.Links[0].Node = 100_000, "b" }, want: map[string]string{"pong.up": ""}},
		{name: "what the ladder tried", change: func(t *testing.T, h *Held) {
			b := beacon(t, time.Second, lost, nil)
			var r report
			if err := json.Unmarshal(b.Report, &r); err != nil {
				t.Fatal(err)
			}
			r.Steps = []selfcheck.StepRecord{
				{At: now.Add(-time.Minute), Kind: selfcheck.StepReconnect, Verdict: lost.Code, Outcome: "helped: it did"},
				{At: now.Add(-30 * time.Second), Kind: selfcheck.StepReconnect, Verdict: lost.Code, Outcome: "no better: so it is"},
				{At: now.Add(-20 * time.Second), Kind: selfcheck.StepRestartWorker, Verdict: selfcheck.CodeAgentHung, Outcome: "helped: of another trouble"},
			}
			b.Report, _ = json.Marshal(r)
			h.Beacons = []operator.Beacon{*b}
		}, want: map[string]string{"fresh_link": "no_help one_end", "restart.agent": ""}},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := healthy()
			c.change(t, &h)
			made := Case(h)
			for name, want := range c.want {
				got := ""
				for i, v := range slices.Compact(find(made, name)) {
					if i > 0 {
						got += ", "
					}
					got += v
				}
				if got != want {
					t.Errorf("%s: %q, want %q", name, got, want)
				}
			}
			// It is a case that can be written, read and answered the same.
			raw, err := made.Write()
			if err != nil {
				t.Fatal(err)
			}
			again, err := diagnosis.ReadCase(raw)
			if err != nil {
				t.Fatalf("%v in\n%s", err, raw)
			}
			a := diagnosis.Diagnose(again)
			if c.leader != "" && a.Ranking[0].ID != c.leader || c.word != "" && a.Confidence.Word != c.word {
				t.Errorf("%s, %s %q, want %s, %s", a.Ranking[0].ID, a.Confidence.Word, a.Confidence.Why, c.leader, c.word)
			}
		})
	}
}

func TestWhichCommandItIsJudgedBy(t *testing.T) {
	young := operator.Command{ID: "young", CreatedAt: now.Add(-time.Second)}
	old := operator.Command{ID: "old", CreatedAt: now.Add(-time.Minute)}
	acked := operator.Command{ID: "acked", CreatedAt: now.Add(-time.Second), AckedAt: ago(0)}
	back := operator.Command{ID: "back", CreatedAt: now.Add(-time.Second), State: wire.StatePending, Attempts: 1}
	for want, commands := range map[string][]operator.Command{"": {young}, "old": {young, old, acked}, "acked": {acked, old}, "back": {young, back, old}} {
		if got := Judged(commands, now); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	if got := Judged(nil, now); got != "" {
		t.Error(got)
	}
}

// Whatever an agent reports, it makes a case that can be read, or no word of it.
func FuzzReport(f *testing.F) {
	f.Add([]byte(`{"verdict":{"code":"link.text.lost"},"snapshot":{"link":{"phase":"verified"},"jobs":{"limit":-1}}}`), "a\x00b")
	f.Fuzz(func(t *testing.T, raw []byte, name string) {
		h := healthy()
		h.Agent.Name = name
		h.Beacons = []operator.Beacon{{ReceivedAt: now, Report: raw}}
		diagnosis.Diagnose(Case(h))
	})
}
