package evidence

import (
	"slices"
	"strings"
	"time"

	"gururmm/diagnosis"
	"gururmm/operator"
	"gururmm/selfcheck"
	"gururmm/wire"
)

// Judged picks the command that says most of now: the newest that had the time to be
// acknowledged, or that a door has given back; "" if there is none. Commands come the newest first.
func Judged(commands []operator.Command, now time.Time) string {
	for _, c := range commands {
		givenBack := c.Attempts > 1 || c.State == wire.StatePending && c.Attempts > 0
		if c.AckedAt != nil || c.EndedAt != nil || givenBack || now.Sub(c.CreatedAt) > settled {
			return c.ID
		}
	}
	return ""
}

// way tells how far the command came by the link. What went by the second door says
// nothing of the link but that it was needed.
func (m *made) way() {
	if m.Trace == nil {
		return
	}
	t, c := m.Trace, m.Trace.Command
	old := m.Now.Sub(c.CreatedAt) > settled || c.EndedAt != nil
	at := map[wire.Stage]operator.TraceEntry{} // of attempts by the link, the last of each
	lost, back, refused := false, false, ""
	var lostAt time.Time
	went := map[int]wire.Channel{} // by which door an attempt was given
	for _, e := range t.Entries {
		if e.Stage == wire.StageClaimed || e.Stage == wire.StageWritten {
			went[e.Attempt] = e.Channel
		}
	}
	for _, e := range t.Entries {
		if e.Channel == wire.ChannelOOB {
			m.byDoor = true
			byLink := went[e.Attempt] == wire.ChannelLink // and told of by the second door
			if e.Stage == wire.StageResultStored && !byLink {
				m.say("door", "runs", diagnosis.BothEnds, byTrace)
			}
			if !byLink || e.End != "agent" {
				continue
			}
		}
		at[e.Stage] = e
		switch e.Stage {
		case "lost":
			lost, back, lostAt = true, true, e.At
		case "released":
			back = true
		case "refused":
			refused = e.Note
		}
	}
	has := func(s wire.Stage) bool { _, ok := at[s]; return ok }
	if byLink := has(wire.StageResultStored); lost && c.EndedAt != nil && (byLink || !larger(c)) && (m.wellAfter(lostAt) || lostAt.Before(m.over)) {
		// It was made good, or links are verified by texts of its size, and all has been well since, or was before the next trouble.
		if lost = false; !byLink {
			return
		}
	}
	if acked := at[wire.StageAckRead]; len(m.troubles) > 0 && (has(wire.StageResultStored) || has(wire.StageAckRead) && m.Now.Sub(acked.At) < settled) {
		return // one that runs says nothing of the others
	}
	if has(wire.StageResultStored) && m.Agent.Presence != "verified" && c.EndedAt != nil && (m.Now.Sub(*c.EndedAt) > settled || m.provenAt.After(*c.EndedAt)) {
		return // it ran before whatever is the matter now
	}
	if has(wire.StageResultStored) && !lost && m.outdone(c.EndedAt) {
		return // it was of a size that passes, or ran before
	}
	if c.EndedAt != nil && m.Agent.Owed > 0 {
		return // a later one is under way, and it says nothing of that
	}
	switch {
	case lost && (m.late || cameAfterAll(t.Entries)):
		m.say("ledger.down", "late", diagnosis.BothEnds, byTrace)
	case lost:
		m.say("ledger.down", "gap", diagnosis.BothEnds, byTrace)
	}
	if cancelled := c.State == wire.StateCancelled; cancelled && !has(wire.StageWritten) {
		return // called off before it could be anything
	}
	if has(wire.StageClaimed) || old && !m.byDoor {
		m.say("stage.claimed", yes(has(wire.StageClaimed)), diagnosis.OneEnd, byTrace)
	}
	switch claimed := at[wire.StageClaimed]; {
	case has(wire.StageWritten):
		m.say("stage.written", "yes", diagnosis.OneEnd, byTrace)
	case has(wire.StageClaimed) && m.Now.Sub(claimed.At) > settled:
		m.say("stage.written", "no", diagnosis.OneEnd, byTrace)
	}
	if has(wire.StageRead) {
		m.say("stage.read", "yes", diagnosis.OneEnd, byTrace)
	}
	if has(wire.StageAcked) {
		m.say("stage.acked", "yes", diagnosis.OneEnd, byTrace)
	}
	switch written := at[wire.StageWritten]; {
	case has(wire.StageAckRead):
		m.say("stage.ack_read", "yes", diagnosis.OneEnd, byTrace)
	case has(wire.StageRead) && m.Now.Sub(at[wire.StageRead].At) < ackWithin: // it came late, and its claim was given back meanwhile
	case has(wire.StageWritten) && (back || m.Now.Sub(written.At) > settled || c.EndedAt != nil) || old && !has(wire.StageWritten) && !m.byDoor:
		m.say("stage.ack_read", "no", diagnosis.OneEnd, byTrace)
	}
	if has(wire.StageWritten) && !has(wire.StageAckRead) && c.EndedAt == nil {
		m.waits = at[wire.StageWritten].At
	}
	if has(wire.StageStarted) {
		m.say("stage.started", "yes", diagnosis.OneEnd, byTrace)
	}
	if has(wire.StageResultStored) {
		m.say("stage.result_stored", "yes", diagnosis.OneEnd, byTrace)
	}
	if value := refusal(refused); value != "" && !(value == "busy" && len(m.troubles) > 0) { // which passes
		m.say("refused", value, diagnosis.BothEnds, byTrace)
	}
}

// cameAfterAll reports whether a text that was told to be lost was read: not that of another
// attempt, by another link.
func cameAfterAll(all []operator.TraceEntry) bool {
	return slices.ContainsFunc(all, func(lost operator.TraceEntry) bool {
		return lost.Stage == "lost" && slices.ContainsFunc(all, func(e operator.TraceEntry) bool {
			return e.Stage == wire.StageRead && (e.Attempt == lost.Attempt || e.Link != "" && e.Link == lost.Link)
		})
	})
}

// refusals are the values of refused by the nack's code.
var refusals = []struct {
	code  wire.Code
	value string
}{
	{wire.CodeUnparseable, "unparseable"}, {wire.CodeUnsupported, "unsupported"}, {wire.CodeBadSignature, "signature"}, {wire.CodeWrongAgent, "signature"},
	{wire.CodeExpired, "expired"}, {wire.CodeBusy, "busy"}, {wire.CodeDraining, "busy"}, {wire.CodeJournal, "journal"},
}

// refusal finds a nack's code in a trace's note; "": none that says why.
func refusal(note string) string {
	for _, r := range refusals {
		if strings.Contains(note, ": "+string(r.code)) {
			return r.value
		}
	}
	return ""
}

// losses are the verdicts that a link's end may leave, each with what it says of the ledgers and
// for how long it stands: a path that is broken proves it again with each link that is tried, and a
// server that lacked a core for a moment proves nothing again.
var losses = []struct {
	code        selfcheck.Code
	name, value string // empty: the verdict alone
	stands      time.Duration
}{
	{selfcheck.CodeLinkTextLost, "ledger.down", "gap", proofStands}, {selfcheck.CodeLinkUplinkLost, "ledger.up", "gap", proofStands},
	{selfcheck.CodeLinkTextAltered, "", "", proofStands}, {selfcheck.CodeLinkStuckFragment, "", "", proofStands}, {selfcheck.CodeLinkTextSilent, "", "", proofStands},
	{selfcheck.CodeRouteUnwritten, "", "", fresh},
}

// ended tells what was proven of the last link that lost text. A proof outlives the link that it
// is of: it stands until text has gone both ways again.
func (m *made) ended() {
	for _, e := range m.Events { // the newest first
		switch {
		case m.Now.Sub(e.At) > proofStands:
			return
		case e.Kind != operator.EventLink:
			continue
		case e.To == "verified" || e.To == "recovered":
			return
		}
		for _, l := range losses {
			if e.Verdict != string(l.code) || m.Now.Sub(e.At) > l.stands || m.verifiedSince(e.At) {
				continue
			}
			if l.code == selfcheck.CodeRouteUnwritten && m.Agent.Stopped { // for a moment, as it was stopped
				continue
			}
			m.provenAt = e.At
			source := byEvents + ", at " + clock(e.At)
			m.verdict(e.Verdict, false, source)
			if l.name != "" {
				m.say(l.name, l.value, diagnosis.BothEnds, source)
			}
			return
		}
	}
}

// wellAfter reports whether the agent has been well since then, and for long enough for what was
// to be over: it has said so all the while, or, for that long after the last sign of anything
// else, still does.
func (m *made) wellAfter(t time.Time) bool {
	a := m.Agent
	if a.Presence != "verified" || !isWell(a.Verdict) || a.VerdictAt == nil || len(m.troubles) > 0 {
		return false
	}
	for _, e := range m.Events {
		if (e.Kind == operator.EventVerdict && !isWell(e.To) || e.Kind == operator.EventLink && e.Verdict != "") && e.At.After(t) {
			t = e.At
		}
	}
	since := wellSince(m.Held)
	return since.After(t) && m.Now.Sub(since) >= recovered || a.VerdictAt.Sub(t) >= recovered
}

// larger reports whether a command is larger than the probes that verify a link.
func larger(c operator.Command) bool { return len(c.Script) > slices.Max(wire.ProbeSizes) }

// verifiedSince reports whether text has gone both ways since then: what the events do not
// tell yet.
func (m *made) verifiedSince(t time.Time) bool {
	a := m.Agent
	return a.Presence == "verified" && a.VerifiedAt != nil && a.VerifiedAt.After(t)
}

// route tells whether the command went to the link that the agent used at that moment: the one
// that its beacon tells of, while that was verified.
func (m *made) route(l selfcheck.LinkFacts) {
	if m.Trace == nil || l.ID == 0 || l.VerifiedAge == nil {
		return
	}
	const margin = time.Second // between two clocks, and between an end and its being told
	told := m.report.at
	verified := told.Add(margin - *l.VerifiedAge)
	for _, e := range slices.Backward(m.Trace.Entries) {
		if e.Stage != wire.StageWritten || e.Channel != wire.ChannelLink || e.Link == "" || e.At.Before(verified) || e.At.After(told.Add(-margin)) {
			continue
		}
		m.say("route", map[bool]string{true: "same", false: "other"}[e.Link == l.ID.String()], diagnosis.BothEnds, "the command's trace and the agent's beacon")
		return
	}
}
