package selfcheck

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"gururmm/wire"
)

// The rules about the agent itself, the second door, and about nothing being wrong.

func lookCrashloop(f *facts, r *rule) *hit {
	w := &f.Worker
	last := Evidence{Fact: "worker.last_exit", Seen: orNone(w.LastExit)}
	if w.Exits >= crashLimit {
		return &hit{
			sentence: fmt.Sprintf("The worker exited %d times within ten minutes, last: %s.", w.Exits, orNone(w.LastExit)),
			evidence: []Evidence{{Fact: "worker.exits", Seen: number(w.Exits), Expected: "fewer than " + number(crashLimit)}, last},
		}
	}
	return nil
}

func lookHung(f *facts, r *rule) *hit {
	w := &f.Worker
	if !w.Running || w.Silent == nil {
		return nil
	}
	silent := f.sinceAwake(*w.Silent)
	if !f.ripe(silent, hungSuspect) {
		return nil
	}
	h := &hit{
		suspected: !f.ripe(silent, r.grace),
		sentence:  fmt.Sprintf("The worker (process %d) runs and has not reported for %s; it reports every %s.", w.PID, span(silent), span(ReportEvery)),
		evidence:  []Evidence{{Fact: "worker.silent", Seen: spanBeyond(silent, r.grace), Expected: "under " + span(r.grace)}},
	}
	f.outside(h)
	return h
}

// stages in the order in which they explain one another; others follow by name.
var stages = []string{"reader", "dispatcher", "writer", "executor"}

// loopMetrics has a rule of its own: nobody's commands wait for it.
const loopMetrics = "metrics"

func lookMetrics(f *facts, r *rule) *hit {
	pending, known := f.lasted(f.Loops[loopMetrics].Pending)
	if !known || !f.ripe(pending, r.grace) {
		return nil
	}
	return &hit{
		sentence: fmt.Sprintf("The machine's figures have not come for %s; commands are not affected.", span(pending)),
		evidence: []Evidence{{Fact: "loops.metrics.pending", Seen: spanBeyond(pending, r.grace), Expected: "under " + span(r.grace)}},
	}
}

func lookStalled(f *facts, r *rule) *hit {
	var worst *hit
	names := append(slices.Clone(stages), slices.Sorted(maps.Keys(f.Loops))...)
	for _, stage := range names {
		pending, known := f.lasted(f.Loops[stage].Pending)
		if stage == loopMetrics || !known || !f.ripe(pending, r.grace) {
			continue
		}
		h := stalled(f, r, stage, pending)
		if worst == nil || worst.suspected && !h.suspected {
			worst = h
		}
	}
	return worst
}

func stalled(f *facts, r *rule, stage string, pending time.Duration) *hit {
	h := &hit{
		code:     r.code + "." + Code(stage),
		sentence: fmt.Sprintf("The worker's %s loop has not turned for %s.", stage, span(pending)),
		evidence: []Evidence{{Fact: "loops." + stage + ".pending", Seen: spanBeyond(pending, r.grace), Expected: "under " + span(r.grace)}},
	}
	switch stage {
	case "reader":
		// Whatever came after it stopped is not read, pings and ledgers neither.
		h.masks = []Code{CodeLinkSilent, CodeLinkTextSilent, CodeLinkTextDelayed, CodeLinkPingForeign, CodeLinkHandshake, CodeLinkConnecting, "route"}
		texts := f.arrived()
		if read := f.Link.Ledger.Local.Read; texts > read {
			h.masks = append(h.masks, CodeLinkTextLost)
			h.sentence += fmt.Sprintf(" %s came in, %d were read.", count(texts, "text"), read)
			h.evidence = append(h.evidence, Evidence{Fact: "in.frames.text", Seen: number(texts), Expected: number(read)})
		} else if peer := f.Link.Ledger.Peer; peer != nil && texts >= peer.Written && texts > 0 {
			h.masks = append(h.masks, CodeLinkTextLost)
		}
		f.kernelHolds(h)
	case "dispatcher":
		h.masks = []Code{"route", CodeLinkTextSilent, CodeLinkHandshake, CodeLinkConnecting, CodeAgentDecode, CodeAgentRejected}
	case "writer":
		h.masks = []Code{CodeLinkUplinkLost, CodeLinkTextSilent, CodeLinkPingForeign, CodeRouteStale, CodeLinkHandshake, CodeLinkConnecting}
		if f.Loops[stage].Waits && !f.ripe(pending, writerGrace) {
			h.suspected = true // its write may wait for the network
			h.sentence += fmt.Sprintf(" A write may wait so long for the network; after %s it can't.", span(writerGrace))
		}
	case "executor":
		h.masks = []Code{CodeAgentExecutorFull}
	}
	return h
}

// arrived is how many data messages the tap saw begin.
func (f *facts) arrived() uint64 {
	return f.Link.In.Frames[FrameText.String()].Count + f.Link.In.Frames[FrameBinary.String()].Count
}

// recent reports whether something counted was seen lately; with no age known it
// counts as recent, for the counters begin anew with each link.
func (f *facts) recent(a *time.Duration) bool {
	d, known := f.age(a)
	if known && d < messageFresh {
		f.within(messageFresh - d)
	}
	return !known || d < messageFresh
}

// past is how long ago something counted was seen that is no longer recent, but
// still told of.
func (f *facts) past(a *time.Duration) (d time.Duration, ok bool) {
	d, known := f.age(a)
	if !known || d < messageFresh || d >= messageShown {
		return 0, false
	}
	f.within(messageShown - d)
	return d, true
}

// refusedBefore is the finding that the two verdicts below leave behind.
func refusedBefore(f *facts) string {
	var said []string
	if d, ok := f.past(f.UndecodedAge); ok && f.Stages.Undecoded > 0 {
		said = append(said, fmt.Sprintf("%s could not be read on this link, the last %s ago.", count(f.Stages.Undecoded, "text"), span(d)))
	}
	if d, ok := f.past(f.RejectedAge); ok && f.Stages.Rejected > 0 && !slices.Contains(ordinary, f.RejectedCode) {
		said = append(said, fmt.Sprintf("%s refused on this link, the last %s ago as %q.", count(f.Stages.Rejected, "message"), span(d), orNone(string(f.RejectedCode))))
	}
	return strings.Join(said, " ")
}

func lookDecode(f *facts, r *rule) *hit {
	if f.Stages.Undecoded == 0 || !f.recent(f.UndecodedAge) {
		return nil
	}
	h := &hit{
		sentence: fmt.Sprintf("%s of %d arrived and could not be read; the digests of both ends agree, so nothing was changed on the way.", count(f.Stages.Undecoded, "text"), f.Stages.Read),
		evidence: []Evidence{{Fact: "stages.undecoded", Seen: number(f.Stages.Undecoded), Expected: "0"}},
	}
	if f.Link.Ledger.Peer == nil {
		h.suspected = true
		h.sentence = fmt.Sprintf("%s of %d arrived and could not be read; without the server's ledger it is not known whether they were changed on the way.", count(f.Stages.Undecoded, "text"), f.Stages.Read)
	}
	return h
}

// lookJournal: what is not in the journal is not acknowledged, so no command runs.
func lookJournal(f *facts, r *rule) *hit {
	if f.Jobs.Journal == "" {
		return nil
	}
	h := &hit{
		sentence: "Commands are refused, their journal can't be written: " + f.Jobs.Journal + ".",
		evidence: []Evidence{{Fact: "jobs.journal", Seen: f.Jobs.Journal}},
	}
	if d := f.Disk; d != nil && d.Total != 0 {
		h.evidence = append(h.evidence, Evidence{Fact: "disk.free", Seen: fmt.Sprintf("%d MiB", d.Free>>20)})
	}
	return h
}

// ordinary are refusals of the daily run, no fault of the message; a journal that
// can't be written, and a quarantine, are verdicts of their own.
var ordinary = []wire.Code{wire.CodeBusy, wire.CodeExpired, wire.CodeDraining, wire.CodeDuplicate, wire.CodeJournal, wire.CodeQuarantined}

func lookRejected(f *facts, r *rule) *hit {
	if f.Stages.Rejected == 0 || slices.Contains(ordinary, f.RejectedCode) || !f.recent(f.RejectedAge) {
		return nil
	}
	return &hit{
		sentence: fmt.Sprintf("%s refused on this link, the last as %q.", count(f.Stages.Rejected, "message"), orNone(string(f.RejectedCode))),
		evidence: []Evidence{
			{Fact: "stages.rejected", Seen: number(f.Stages.Rejected), Expected: "0"},
			{Fact: "rejected_code", Seen: orNone(string(f.RejectedCode))},
		},
	}
}

func lookExecutorFull(f *facts, r *rule) *hit {
	if f.Jobs.Limit <= 0 || f.Jobs.Running < f.Jobs.Limit {
		return nil
	}
	var oldest time.Duration
	for _, j := range f.Jobs.Jobs {
		oldest = max(oldest, j.Age+f.carried)
	}
	h := &hit{
		sentence: fmt.Sprintf("%d of %s run; new commands are answered \"busy\".", f.Jobs.Running, count(f.Jobs.Limit, "job")),
		evidence: []Evidence{{Fact: "jobs.running", Seen: number(f.Jobs.Running), Expected: "under " + number(f.Jobs.Limit)}},
	}
	if oldest > 0 {
		h.evidence = append(h.evidence, Evidence{Fact: "jobs.oldest", Seen: span(oldest)})
	}
	return h
}

// refused reports whether the door answered, and would not have us.
func refused(e *NetworkError) bool { return e != nil && (e.Status == 401 || e.Status == 403) }

// lookRemoved goes by the server's own word, in the answer to a request that this agent
// had signed; by either door.
func lookRemoved(f *facts, r *rule) *hit {
	for _, said := range []struct {
		fact string
		err  *NetworkError
	}{{"link.failure", f.Link.Failure}, {"oob.failure", f.OOB.Failure}} {
		if f.Link.Phase != PhaseVerified && said.err != nil && said.err.Code == wire.ProblemRemoved {
			return &hit{
				sentence: "This agent was removed from the server; enroll it again to bring it back.",
				evidence: []Evidence{{Fact: said.fact, Seen: said.err.String(), Expected: "none"}},
			}
		}
	}
	return nil
}

// lookIsolated goes by the server's own word too: it refuses the link, not the second door.
func lookIsolated(f *facts, r *rule) *hit {
	said := f.Link.Failure
	if f.Link.Phase == PhaseVerified || said == nil || said.Code != wire.ProblemQuarantined {
		return nil
	}
	return &hit{
		sentence: "An operator has quarantined this endpoint: the server gives it no link and no command until they lift it.",
		evidence: []Evidence{{Fact: "link.failure", Seen: said.String(), Expected: "none"}},
	}
}

// doorFails reports whether the second door fails while the link is well; when
// the link is ill that is the verdict, and the door's failure stands in the facts.
func doorFails(f *facts) bool {
	return f.OOB.Configured && f.OOB.Failures >= doorLimit && f.Link.Phase == PhaseVerified
}

func lookDoorRejected(f *facts, r *rule) *hit {
	if !doorFails(f) || !refused(f.OOB.Failure) {
		return nil
	}
	return &hit{
		sentence: fmt.Sprintf("The link is well, but the second door refused this agent %d times in a row: %s.", f.OOB.Failures, f.OOB.Failure),
		evidence: doorEvidence(f),
	}
}

func lookDoorUnreachable(f *facts, r *rule) *hit {
	if !doorFails(f) || refused(f.OOB.Failure) {
		return nil
	}
	return &hit{
		sentence: fmt.Sprintf("The link is well, but the second door failed %d times in a row: %s.", f.OOB.Failures, orNone(f.OOB.Failure.String())),
		evidence: doorEvidence(f),
	}
}

func doorEvidence(f *facts) []Evidence {
	e := []Evidence{
		{Fact: "oob.failures", Seen: number(f.OOB.Failures), Expected: "0"},
		{Fact: "oob.failure", Seen: orNone(f.OOB.Failure.String()), Expected: "none"},
	}
	if f.OOB.LastOK != nil {
		e = append(e, Evidence{Fact: "oob.last_ok", Seen: span(*f.OOB.LastOK) + " ago"})
	}
	return e
}

// alive reports whether the link is verified and something came over it within
// the dead window. A phase alone is not enough: what is not known is not well.
func (f *facts) alive() bool {
	if f.Link.Phase != PhaseVerified || !f.Worker.Running {
		return false
	}
	for _, a := range []*time.Duration{f.Link.In.AnyAge, f.Link.In.TextAge, f.Link.Ledger.PongAge, f.Link.Ledger.PeerAge, f.Link.VerifiedAge} {
		if d, known := f.lasted(a); known && d <= f.dead() {
			return true
		}
	}
	return false
}

func lookOK(f *facts, r *rule) *hit {
	last, texted := f.lastText()
	if !f.alive() || !texted || last > 2*f.heartbeat() {
		return nil
	}
	f.within(2*f.heartbeat() - last)
	return &hit{
		sentence: fmt.Sprintf("The link is verified, the last text came %s ago; %d written and %d read.", span(last), f.Link.Ledger.Local.Written, f.Link.Ledger.Local.Read),
		evidence: []Evidence{{Fact: "in.text_age", Seen: spanBeyond(last, 2*f.heartbeat()), Expected: "under " + span(2*f.heartbeat())}},
	}
}

func lookIdle(f *facts, r *rule) *hit {
	last, texted := f.lastText()
	if !f.alive() || texted && last <= 2*f.heartbeat() {
		return nil
	}
	h := &hit{
		sentence: "The link is verified and alive; no text has come lately, and none is missing.",
		evidence: []Evidence{{Fact: "link.phase", Seen: string(f.Link.Phase)}},
	}
	if texted {
		h.evidence = append(h.evidence, Evidence{Fact: "in.text_age", Seen: span(last)})
	}
	return h
}
