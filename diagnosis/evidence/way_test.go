package evidence

import (
	"strings"
	"testing"
	"time"

	"gururmm/diagnosis"
	"gururmm/operator"
	"gururmm/selfcheck"
	"gururmm/wire"
)

// A command of which an attempt was lost, and which went by the link when it was offered again,
// says nothing of an agent that has been well since.
func TestALossThatWasMadeGood(t *testing.T) {
	word := func(age time.Duration, to selfcheck.Code) operator.AgentEvent {
		return operator.AgentEvent{Kind: operator.EventVerdict, At: *ago(age), To: string(to)}
	}
	byDoor := func(t *operator.Trace) { // the second attempt
		for i := range t.Entries[4:] {
			t.Entries[4+i].Channel = wire.ChannelOOB
		}
	}
	for _, c := range []struct {
		name   string
		change func(h *Held)
		gap    bool
		leader string // empty: whatever
	}{
		{"well for long, by its word", func(h *Held) {
			h.Events = []operator.AgentEvent{word(50*time.Second, "ok"), word(58*time.Second, selfcheck.CodeLinkTextLost)}
		}, false, "well"},
		{"it never said anything else", func(h *Held) { h.Agent.VerdictAt = ago(5 * time.Second) }, false, "well"},
		{"not for long yet", func(h *Held) {
			h.Events = []operator.AgentEvent{word(20*time.Second, "ok"), word(58*time.Second, selfcheck.CodeLinkTextLost)}
		}, true, ""},
		{"ill since", func(h *Held) {
			h.Agent.VerdictAt = ago(5 * time.Second)
			h.Events = []operator.AgentEvent{word(5*time.Second, "ok"), word(10*time.Second, selfcheck.CodeLinkTextLost)}
		}, true, ""},
		{"its link was proven ill since", func(h *Held) {
			h.Agent.VerdictAt = ago(5 * time.Second)
			h.Events = []operator.AgentEvent{{Kind: operator.EventLink, At: *ago(20 * time.Second), To: "ended", Verdict: string(selfcheck.CodeLinkSilent)}}
		}, true, ""},
		{"well before it, and no word since", func(h *Held) {}, true, ""},
		{"run by the second door", func(h *Held) {
			h.Events = []operator.AgentEvent{word(50*time.Second, "ok"), word(58*time.Second, selfcheck.CodeLinkTextLost)}
			byDoor(h.Trace)
		}, false, "well"},
		{"well for long, and another trouble since", func(h *Held) {
			h.Agent.Presence, h.Agent.Verdict, h.Agent.VerdictAt = "out-of-band", string(selfcheck.CodeLinkSilent), ago(2*time.Second)
			h.Agent.Links = nil
			h.Events = []operator.AgentEvent{word(2*time.Second, selfcheck.CodeLinkSilent), word(50*time.Second, "ok"), word(58*time.Second, selfcheck.CodeLinkTextLost)}
			h.Beacons = beacons(t, 2*time.Second, selfcheck.Verdict{Code: selfcheck.CodeLinkSilent}, nil)
			byDoor(h.Trace)
		}, false, ""},
		{"run by the second door, and larger than what verifies a link", func(h *Held) {
			h.Events = []operator.AgentEvent{word(50*time.Second, "ok"), word(58*time.Second, selfcheck.CodeLinkTextLost)}
			h.Trace.Command.Script = strings.Repeat("x", 20_000)
			byDoor(h.Trace)
		}, true, "path.text.size"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := healthy()
			h.Trace = trace(time.Minute, "accepted", "claimed", "written", "lost", "claimed", "written", "read", "decoded", "verified", "journaled", "acked", "ack_read", "started", "finished", "result_written", "result_stored")
			for i := range h.Trace.Entries[4:] {
				h.Trace.Entries[4+i].Attempt = 2
			}
			c.change(&h)
			made := Case(h)
			gap := false
			for _, v := range find(made, "ledger.down") {
				gap = gap || v == "gap both_ends"
			}
			if gap != c.gap {
				t.Errorf("ledger.down: %v, want a gap: %v", find(made, "ledger.down"), c.gap)
			}
			if a := diagnosis.Diagnose(made); c.leader != "" && a.Ranking[0].ID != c.leader {
				t.Errorf("%s leads, want %s", a.Ranking[0].ID, c.leader)
			}
		})
	}
}
