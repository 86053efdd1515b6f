package evidence

import (
	"encoding/json"
	"slices"
	"strings"
	"time"

	"gururmm/diagnosis"
	"gururmm/operator"
	"gururmm/selfcheck"
	"gururmm/wire"
)

// recovered is for how long an agent must have been well for what it proved before to be over:
// the ladder's answers take a symptom away at once, and a cause that stays brings it back
// within the graces.
const recovered = 30 * time.Second

// episode is what an agent has said of the trouble that it is in.
//
// An agent that is ill does not stand still: it ends its link, makes another, starts a loop or
// its worker afresh, and its verdict of this second is that it connects. What it has proven
// meanwhile holds until it has been well for a while.
type episode struct {
	report *report // whose facts count: the newest that proves the trouble, else the newest; nil: none that speaks for now
	toldAt time.Time
	// troubles are the verdicts that were proven, the newest first, those that are only what
	// another brings with it left out.
	troubles []selfcheck.Verdict
	reports  []*report            // of the time looked at, the newest first
	late     bool                 // texts that were missing came after all
	over     time.Time            // a time of well began then that lasted: what was before is over; zero: none
	fell     *operator.AgentEvent // that tells of the trouble, in place of a report; nil: a report does
}

// rank orders proven verdicts by how near to a cause they are; 0: it names a state, which
// counts as long as it lasts.
func rank(v selfcheck.Verdict, s selfcheck.Snapshot) int {
	switch v.Code {
	case selfcheck.CodeLinkTextLost, selfcheck.CodeLinkTextDelayed, selfcheck.CodeLinkTextAltered, selfcheck.CodeLinkStuckFragment,
		selfcheck.CodeLinkUplinkLost, selfcheck.CodeLinkPingForeign, selfcheck.CodeRouteStale, selfcheck.CodeRouteUnwritten,
		selfcheck.CodeAgentHung, selfcheck.CodeAgentCrashloop:
		return 3
	case selfcheck.CodeLinkSilent, selfcheck.CodeLinkTextSilent:
		return 2
	case selfcheck.CodeLinkFlapping: // that they end; silence tells how
		return 1
	case selfcheck.CodeLinkHandshake:
		if !unverified(s) {
			return 1
		}
	}
	if strings.HasPrefix(string(v.Code), string(selfcheck.CodeAgentStalled)+".") {
		return 3
	}
	return 0
}

// unverified reports whether links open and are not verified: then it is not the handshake.
func unverified(s selfcheck.Snapshot) bool {
	return s.Link.Failure != nil && strings.HasPrefix(s.Link.Failure.Type, "ws.")
}

// recent goes through the beacons of the last minutes.
func recent(h Held) (e episode) {
	a := h.Agent
	if a.Stopped || a.Presence == "offline" || a.RemovedAt != nil {
		return e // what it said is of before
	}
	for _, b := range h.Beacons {
		var r report
		if h.Now.Sub(b.ReceivedAt) >= fresh || json.Unmarshal(b.Report, &r) != nil {
			continue
		}
		r.at = b.ReceivedAt
		if len(e.reports) == 0 {
			e.toldAt = b.ReceivedAt
		}
		e.reports = append(e.reports, &r)
	}
	e.over = wellBefore(h, e.reports)
	if len(e.reports) == 0 {
		return e
	}
	e.report = e.reports[0]
	if a.Presence == "verified" && isWell(a.Verdict) && h.Now.Sub(wellSince(h)) >= recovered {
		return e
	}
	// What was before a time of well is another trouble, and over.
	e.reports = slices.DeleteFunc(e.reports, func(r *report) bool { return r.at.Before(e.over) })
	e.report = nil
	if len(e.reports) > 0 {
		e.report = e.reports[0]
	}
	ran := wholeSince(h)
	top := 0
	for _, r := range e.reports {
		if r.Verdict.Suspected || strings.HasPrefix(string(r.Verdict.Code), "route.") && r.at.Before(ran) {
			continue
		}
		n := rank(r.Verdict, r.Snapshot)
		if n > top { // what stood so far is only what this brings with it
			top, e.troubles, e.report = n, nil, r
		}
		if n == top && n > 0 && !slices.ContainsFunc(e.troubles, func(v selfcheck.Verdict) bool { return v.Code == r.Verdict.Code }) {
			e.troubles = append(e.troubles, r.Verdict)
		}
	}
	if e.report != nil {
		e.fell = fell(h, e.over, top)
	}
	if e.fell != nil {
		e.troubles = []selfcheck.Verdict{{Code: selfcheck.Code(e.fell.Verdict)}}
	}
	if e.proven(selfcheck.CodeLinkTextAltered) { // counts that are made up close gaps, too
		return e
	}
	if e.late = e.proven(selfcheck.CodeLinkTextDelayed) || slices.ContainsFunc(e.reports, (*report).closedGap); e.late {
		// Until it comes, what is late can't be told from what is lost.
		e.troubles = slices.DeleteFunc(e.troubles, func(v selfcheck.Verdict) bool {
			return v.Code == selfcheck.CodeLinkTextLost || v.Code == selfcheck.CodeLinkTextDelayed
		})
		e.troubles = append(e.troubles, selfcheck.Verdict{Code: selfcheck.CodeLinkTextDelayed})
	}
	return e
}

// fell gives the link since then whose end tells most, and more than top, the rank of what the
// agent reported, which may have made another before it did: the server had kept a text of it
// back, or the agent ended it for silence. Where the server saw silence first, that is of the
// other way. What the server kept back before it wrote a whole command is over, and so is what it
// did before a link that was verified, and then fell silent with nothing kept back.
func fell(h Held, since time.Time, top int) (most *operator.AgentEvent) {
	ran := wholeSince(h)
	ill, again := false, false // the agent has said so since; a link was verified since, and fell silent
	for i := range h.Events {  // the newest first
		e := &h.Events[i]
		well := !ill && isWell(h.Agent.Verdict) && h.Agent.VerdictAt != nil && h.Agent.VerdictAt.Sub(e.At) >= recovered
		if h.Now.Sub(e.At) >= fresh || e.At.Before(since) || well {
			break
		}
		ill = ill || e.Kind == operator.EventVerdict && !isWell(e.To)
		again = again || most != nil && e.Kind == operator.EventLink && e.To == "verified"
		code := selfcheck.Code(e.Verdict)
		kept := code == selfcheck.CodeRouteUnwritten && !e.At.Before(ran) && !again
		silent := code == selfcheck.CodeLinkSilent && e.From != "degraded"
		if e.Kind != operator.EventLink || e.To != "ended" || !kept && !silent {
			continue
		}
		if n := rank(selfcheck.Verdict{Code: code}, selfcheck.Snapshot{}); n > top {
			top, most = n, e
		}
	}
	return most
}

func isWell(verdict string) bool {
	return verdict == string(selfcheck.CodeOK) || verdict == string(selfcheck.CodeOKIdle)
}

// wellSince is when the agent said first that all is well, of the last times in a row, or,
// where no event tells, last.
func wellSince(h Held) (since time.Time) {
	if h.Agent.VerdictAt != nil {
		since = *h.Agent.VerdictAt
	}
	for _, e := range h.Events { // the newest first
		if e.Kind != operator.EventVerdict {
			continue
		}
		if !isWell(e.To) {
			break
		}
		since = e.At
	}
	return since
}

// wellBefore is when the last time of well began that lasted for long enough: by the agent's words in events
// and in reports, which are the newest first; zero: none did. A word stands until the next one.
func wellBefore(h Held, reports []*report) (since time.Time) {
	type word struct {
		at   time.Time
		well bool
	}
	var words []word
	for _, e := range h.Events {
		if e.Kind == operator.EventVerdict {
			words = append(words, word{e.At, isWell(e.To)})
		}
	}
	for _, r := range reports {
		words = append(words, word{r.at, isWell(string(r.Verdict.Code))})
	}
	if at := h.Agent.VerdictAt; at != nil {
		words = append(words, word{*at, isWell(h.Agent.Verdict)})
	}
	slices.SortStableFunc(words, func(a, b word) int { return a.at.Compare(b.at) })
	if n := len(words); n > 0 && words[n-1].well && h.Agent.LastSeen != nil { // it stands while it is heard
		words = append(words, word{*h.Agent.LastSeen, true})
	}
	var began time.Time // of the time of well that is looked at; zero: it is not well
	for _, w := range words {
		if w.well && began.IsZero() {
			began = w.at
		}
		if !began.IsZero() && w.at.Sub(began) >= recovered {
			since = began
		}
		if !w.well {
			began = time.Time{}
		}
	}
	return since
}

// wholeSince is when a command was given that went by the link all the way; zero: the one
// that is judged by did not. The server had a link for it then, and wrote it.
func wholeSince(h Held) (given time.Time) {
	if h.Trace != nil && slices.ContainsFunc(h.Trace.Entries, func(e operator.TraceEntry) bool {
		return e.Stage == wire.StageResultStored && e.Channel == wire.ChannelLink
	}) {
		given = h.Trace.Command.CreatedAt
	}
	return given
}

// closedGap reports whether texts that were missing came after all, in this trouble: a link may
// be open for days.
func (r *report) closedGap() bool {
	l := r.Snapshot.Link.Ledger
	return l.Closed > 0 && l.ClosedAge != nil && *l.ClosedAge < fresh
}

// proven reports whether the agent has proven a verdict in this trouble.
func (e episode) proven(code selfcheck.Code) bool {
	return slices.ContainsFunc(e.troubles, func(v selfcheck.Verdict) bool { return v.Code == code })
}

// lost tells which texts the links of this trouble lost: by the counts of both ends, and by
// the sizes of what was read.
//
// A trouble may begin at any time of a link's life: that the oldest has read texts before says
// nothing of which are lost. It takes a link that was made meanwhile.
func (m *made) lost() {
	if !m.proven(selfcheck.CodeLinkTextLost) || !m.probedAt.IsZero() { // what a ladder cost, it tells itself
		return
	}
	seen := map[wire.LinkID]bool{}
	var kinds []string // of the links, the newest first; "": it does not tell
	sizes := map[string]int{}
	verified := 0 // links that were verified, and lost texts then
	for _, r := range m.reports {
		l := r.Snapshot.Link
		down, peer, local := l.Ledger.Down, l.Ledger.Peer, l.Ledger.Local
		if down == nil || peer == nil || local.Link == 0 || seen[local.Link] {
			continue // the newest of each link that tells of a gap tells most
		}
		seen[local.Link] = true
		if l.VerifiedAge != nil {
			verified++
		}
		text := l.In.Frames[selfcheck.FrameText.String()]
		large := false
		if size, known := lostSize(text, *peer, *down); known {
			switch top, all := largest(text); {
			case size > top:
				large = true
				sizes["large"]++
			case size <= all:
				sizes["alike"]++
			}
		}
		kind := "some"
		switch {
		case local.Read == 0 && peer.Written > 1:
			kind = "all"
		case local.Read == 0:
			kind = ""
		case down.Missing == 1 && !large && l.VerifiedAge != nil && down.Age+time.Second >= *l.VerifiedAge:
			kind = "first" // it was missing as soon as there was a count, and no later one is
		case l.In.TextAge != nil && *l.In.TextAge >= down.Age:
			kind = "after_some"
		}
		kinds = append(kinds, kind)
	}
	source := byBeacon
	for _, l := range m.Agent.Links { // one that no beacon tells of yet
		if !seen[l.Link] && nothingRead(l) {
			kinds, source = slices.Insert(kinds, 0, "all"), byBeacon+", and the server, of its newer link"
		}
	}
	switch n := len(kinds); {
	case n > 1:
		kinds = kinds[:n-1]
	case n == 1 && kinds[0] == "after_some":
		kinds = nil
	}
	kinds = slices.DeleteFunc(kinds, func(k string) bool { return k == "" })
	slices.Sort(kinds)
	if kinds = slices.Compact(kinds); len(kinds) == 1 {
		m.say("lost.which", kinds[0], diagnosis.BothEnds, source)
	}
	switch {
	case sizes["alike"] > 0:
		m.say("sizes", "alike", diagnosis.BothEnds, byBeacon)
	case sizes["large"] > 0:
		m.say("sizes", "large", diagnosis.BothEnds, byBeacon)
	}
	if verified > 1 {
		m.say("fresh_link", "while", diagnosis.OneEnd, byBeacon)
	}
}

// nothingRead reports whether texts were written to a link, and the agent has told by later
// frames of it that it has read none.
func nothingRead(l wire.LinkView) bool {
	told := l.Verdict == string(selfcheck.CodeLinkTextLost) || time.Duration(l.AgeMS)*time.Millisecond > loopStalls && l.PongAgeMS != nil
	return told && l.Written > 1 && l.PeerRead != nil && *l.PeerRead == 0
}

// digests tells whether what was read is what was written: at equal counts, on any link of
// the time looked at. One that is verified has compared them all along.
func (m *made) digests() {
	if m.proven(selfcheck.CodeLinkTextAltered) || m.said("verdict", string(selfcheck.CodeLinkTextAltered)) {
		return
	}
	for _, r := range m.reports {
		l := r.Snapshot.Link
		if l.Ledger.Altered != "" {
			return
		}
		here, there := l.Ledger.Local, l.Ledger.Peer
		if there != nil && here.Read > 0 && (l.Phase == selfcheck.PhaseVerified || here.Read == there.Written && here.ReadCRC == there.WrittenCRC) {
			m.say("ledger.digest", "same", diagnosis.BothEnds, byBeacon)
			return
		}
	}
}

// stopped tells of links that went silent: what came on them, and how far they got.
func (m *made) stopped() {
	if !m.proven(selfcheck.CodeLinkSilent) {
		return
	}
	source := byBeacon
	if m.fell != nil {
		source = byEvents
	}
	m.say("silence", "reconnected", diagnosis.OneEnd, source)
	m.say("ping.down", "no", diagnosis.OneEnd, source)
	if m.fell != nil {
		return
	}
	probing, texts := false, false
	verified := map[wire.LinkID]bool{} // links that passed the large probe, and went silent later
	for _, r := range m.reports {
		l := r.Snapshot.Link
		if r.Verdict.Code == selfcheck.CodeLinkSilent && l.VerifiedAge != nil {
			verified[l.Ledger.Local.Link] = true
		}
		if r.Verdict.Code == selfcheck.CodeLinkSilent && l.VerifiedAge == nil {
			probing = probing || l.Phase == selfcheck.PhaseProbing
			texts = texts || l.Ledger.Local.Read > 0
		}
	}
	switch {
	case probing && len(verified) < 2: // the small probe was answered, and with the large one all ended
		m.say("probes", "large_fail", diagnosis.OneEnd, byBeacon)
		m.say("lost.which", "after_some", diagnosis.OneEnd, byBeacon)
		m.say("text.down", "stopped", diagnosis.OneEnd, byBeacon)
	case !texts:
		m.say("text.down", "none", diagnosis.OneEnd, byBeacon)
	}
}

// lostSize is how many bytes the lost texts of a link have on average, where the counts of
// both ends are of the same moment.
func lostSize(read selfcheck.ClassView, peer wire.Ledger, down selfcheck.Gap) (size uint64, known bool) {
	if down.Missing == 0 || peer.WrittenBytes < read.Bytes || peer.Written != read.Count+down.Missing {
		return 0, false
	}
	return (peer.WrittenBytes - read.Bytes) / down.Missing, true
}

// largest bounds the largest text that was read: it has no more bytes than top, and more
// than floor.
func largest(read selfcheck.ClassView) (top, floor uint64) {
	for i, n := range read.Sizes {
		if n == 0 {
			continue
		}
		top, floor = 1<<62, selfcheck.SizeBuckets[len(selfcheck.SizeBuckets)-1]
		if i < len(selfcheck.SizeBuckets) {
			top, floor = selfcheck.SizeBuckets[i], 0
			if i > 0 {
				floor = selfcheck.SizeBuckets[i-1]
			}
		}
	}
	return top, floor
}
