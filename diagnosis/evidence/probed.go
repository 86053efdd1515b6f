package evidence

import (
	"time"

	"gururmm/diagnosis"
	"gururmm/operator"
	"gururmm/selfcheck"
	"gururmm/wire"
)

const byProbe = "the last probe of the way of commands"

// probed tells what the last ladder of inert texts came to by the link, if it was sent within
// the hour. That large ones are lost stands though links are verified after it: the probes of a
// new link are small. That all pass stands until a link is proven ill, or the next command.
func (m *made) probed() {
	verified, hurt := false, false // a link was, since
	for _, e := range m.Events {   // the newest first
		if e.Kind == operator.EventLink {
			verified = verified || e.To == "verified" || e.To == "recovered"
			hurt = hurt || e.Verdict != ""
		}
		if e.Kind != operator.EventProbe || e.From != string(wire.ChannelLink) {
			continue
		}
		if m.Now.Sub(e.At) > proofStands {
			return
		}
		if small := e.To == operator.ProbeAllLost || e.To == operator.ProbeTinyLost; small && (verified || m.verifiedSince(e.At)) {
			return
		}
		grade := diagnosis.OneEnd
		if proven := e.Verdict == string(selfcheck.CodeLinkTextLost) || e.Verdict == string(selfcheck.CodeLinkStuckFragment); proven {
			grade = diagnosis.BothEnds
		}
		sizes, probes := "", ""
		switch e.To {
		case operator.ProbePassed:
			if hurt || m.Trace != nil && m.Trace.Command.CreatedAt.After(e.At) {
				return // it was well then
			}
			m.say("probes", "pass", diagnosis.BothEnds, byProbe)
			m.ladder = e.To
			return
		case operator.ProbeLargeLost:
			sizes, probes = "large", "large_fail"
		case operator.ProbeAllLost:
			sizes, probes = "alike", "all_fail"
		case operator.ProbeTinyLost:
			sizes = "tiny"
		default: // it says nothing of sizes
			return
		}
		m.ladder = e.To
		m.say("sizes", sizes, grade, byProbe)
		if probes != "" {
			m.say("probes", probes, grade, byProbe)
		}
		if e.Verdict == string(selfcheck.CodeLinkTextLost) {
			m.say("ledger.down", "gap", diagnosis.BothEnds, byProbe)
		}
		m.probedAt = e.At
		return
	}
}

// outdone reports whether what was seen to be well at the time says nothing against a ladder of
// which texts were lost: it was of another size, or before.
func (m *made) outdone(at *time.Time) bool {
	return !m.probedAt.IsZero() && (m.ladder != operator.ProbeAllLost || at == nil || at.Before(m.probedAt))
}

// small tells what the small probes that verify a link say. A ladder has larger ones, and of a
// command that was larger than they are they say nothing but that what is small passes.
func (m *made) small() {
	switch {
	case m.ladder != "":
	case m.Trace == nil || !larger(m.Trace.Command):
		m.say("probes", "pass", diagnosis.BothEnds, byServer)
	case m.said("ledger.down", "gap"):
		m.say("sizes", "large", diagnosis.Inferred, "the command's size, and the small probes of its link that passed")
	}
}
