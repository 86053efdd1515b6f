package hub

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"gururmm/oob"
	"gururmm/operator"
	"gururmm/selfcheck"
	"gururmm/server/delivery"
	"gururmm/wire"
)

// Presence words, as the operator sees them.
const (
	Verified    = "verified"    // text both ways
	Degraded    = "degraded"    // a link, and a verdict against it
	OutOfBand   = "out-of-band" // commands go by the second door
	Connecting  = "connecting"  // a link that is not verified yet, or a beacon of an agent that seeks one
	Silent      = "silent"      // a link on which nothing comes
	Offline     = "offline"
	Quarantined = "quarantined"
	Duplicate   = "duplicate" // two living machines hold the identity
	Gone        = "removed"   // by an operator
)

// oobWindow is how long a beacon or poll speaks for the second door: three
// beacons of an ill agent.
const oobWindow = 90 * time.Second

// silentMin bounds from below how long nothing may come before a link is silent;
// else it is one and a half ping intervals, so that a single late ping is not silence.
const silentMin = 5 * time.Second

// ways an agent is heard of, beside "text" and "ping".
const (
	viaText   = "text"
	viaPing   = "ping"
	viaBeacon = "beacon"
	viaPoll   = "poll"
)

// heartbeatSeen takes in a heartbeat's word on the agent.
func (h *Hub) heartbeatSeen(l *link, hb wire.Heartbeat, at time.Time) {
	deliverable, _ := l.Deliverable()
	if h.takeHeartbeat(l, hb, deliverable, at) {
		h.observe(l.agent)
	}
}

// takeHeartbeat reports whether the agent's word on itself has changed.
func (h *Hub) takeHeartbeat(l *link, hb wire.Heartbeat, deliverable bool, at time.Time) (changed bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	ep := h.endpoint(l.agent)
	ep.seen(at, viaText, l.addr)
	if hb.Verdict != "" {
		changed = h.judged(l.agent, ep, clip(hb.Verdict), "", at)
	}
	if !deliverable {
		return changed
	}
	ep.verifiedAt = at // the agent's ledger rode in it: text went both ways
	// An agent that is well has left the second door: a poll that was still on its
	// way when it did says otherwise for no longer than this.
	if well := hb.Verdict == string(selfcheck.CodeOK) || hb.Verdict == string(selfcheck.CodeOKIdle); well {
		changed = changed || !ep.deliverAt.IsZero()
		ep.deliverAt = time.Time{}
	}
	return changed
}

// textBothWays records that text provably went both ways.
func (h *Hub) textBothWays(l *link, at time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	ep := h.endpoint(l.agent)
	ep.seen(at, viaText, l.addr)
	ep.verifiedAt = at
}

// clockSeen records how far the agent's clock is behind the server's.
func (h *Hub) clockSeen(agent string, behind time.Duration) {
	skew := behind.Milliseconds()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.endpoint(agent).skew = &skew
}

// Behind is how far the agent's clock is behind the server's, as last measured; nil: unknown.
func (h *Hub) Behind(agent string) *time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	if ep := h.agents[agent]; ep != nil && ep.skew != nil {
		return new(time.Duration(*ep.skew) * time.Millisecond)
	}
	return nil
}

// judged takes the agent's word on itself, and tells of it if it is another. Call with mu held.
func (h *Hub) judged(agent string, ep *endpoint, verdict, sentence string, at time.Time) (changed bool) {
	if changed = verdict != ep.verdict; changed && verdict != "" { // one that has just started knows none yet
		h.note(agent, operator.AgentEvent{Kind: operator.EventVerdict, To: verdict, Reason: sentence})
	}
	if verdict != ep.verdict || sentence != "" {
		ep.sentence = sentence
	}
	ep.verdict, ep.verdictAt = verdict, at
	return changed
}

// maxFindings bounds what is kept of what an agent finds.
const maxFindings = 16

// Findings are what a report says beside its verdict, as it is told.
func Findings(r oob.Report) []operator.Finding {
	var all []operator.Finding
	for _, f := range r.Findings[:min(len(r.Findings), maxFindings)] {
		all = append(all, operator.Finding{Code: clip(string(f.Code)), Sentence: clipSentence(f.Sentence)})
	}
	return all
}

// found tells of what stands beside the agent's verdict, if its last beacon had something else:
// the store knows whether it is a change. Call with mu held.
func (h *Hub) found(agent string, before *beacon, all []operator.Finding) {
	codes := func(all []operator.Finding) (codes []string) {
		for _, f := range all {
			codes = append(codes, f.Code)
		}
		slices.Sort(codes)
		return slices.Compact(codes)
	}
	is := codes(all)
	if before == nil || !slices.Equal(codes(before.findings), is) {
		var said []string
		for _, f := range all {
			said = append(said, f.Sentence)
		}
		h.note(agent, operator.AgentEvent{Kind: operator.EventFinding, To: cmp.Or(strings.Join(is, ", "), operator.NoFinding), Reason: strings.Join(said, " ")})
	}
}

func (ep *endpoint) seen(at time.Time, via, addr string) {
	if at.After(ep.seenAt) {
		ep.seenAt, ep.via, ep.addr, ep.dirty = at, via, addr, true
	}
}

// Reported takes in a beacon: the agent's verdict, whether the second door
// delivers, and what its ledger proves of a link that is still up here.
func (h *Hub) Reported(agent string, r oob.Report, addr string, at time.Time) {
	h.mu.Lock()
	ep := h.endpoint(agent)
	ep.seen(at, viaBeacon, addr)
	if off := r.Snapshot.Clock.Offset; off != nil {
		skew := off.Milliseconds()
		ep.skew = &skew
	}
	var on *link
	if r.At.After(at) { // written by a clock that is ahead: what it says once set right counts too
		r.At = at
	}
	h.noteSteps(agent, ep, r, at)
	// A report out of the spool tells of the past: it is recorded, and changes nothing now.
	if r.At.Before(ep.reported().written) || at.Sub(r.At) > oobWindow {
		h.mu.Unlock()
		return
	}
	before := ep.beacon
	ep.beacon = &beacon{at: at, written: r.At, findings: Findings(r)}
	ep.stopped = r.Cause == oob.CauseStop
	h.judged(agent, ep, clip(string(r.Verdict.Code)), clipSentence(r.Verdict.Sentence), at)
	h.found(agent, before, ep.beacon.findings)
	if ep.state == identitySole { // else theirs come in turns
		h.noteWorker(agent, ep, r.Snapshot.Worker)
	}
	ep.isolated = slices.ContainsFunc(r.Findings, func(f selfcheck.Finding) bool { return f.Code == selfcheck.FindIsolated })
	ep.deliverAt = time.Time{}
	if r.Snapshot.OOB.Delivering {
		ep.deliverAt = at
	}
	for _, l := range ep.links {
		if l.id == r.Snapshot.Link.ID {
			on = l
		}
	}
	h.mu.Unlock()
	if on != nil {
		on.reportedBy(r.Verdict, reported(r, at))
	}
	h.observe(agent)
	h.explain(agent, r, at)
}

// explain has delivery name the agent's own word where its link fails a command.
func (h *Hub) explain(agent string, r oob.Report, at time.Time) {
	v := r.Verdict
	if v.Suspected || r.Snapshot.Link.ID == 0 {
		return
	}
	why := ""
	if faulty(v.Code) {
		why = clipSentence(fmt.Sprintf("the agent says %s: %s", v.Code, v.Sentence))
		for _, step := range r.Steps {
			if step.Verdict == v.Code && step.Kind == selfcheck.StepRestartWorker {
				why += " Its step: " + string(step.Kind) + "."
			}
		}
	}
	h.opts.Delivery.Explain(agent, r.Snapshot.Link.ID, delivery.Proof{Says: why, Counts: reported(r, at)}, loses(v.Code))
}

// loses reports whether a verdict proves that texts to the agent are lost.
func loses(c selfcheck.Code) bool {
	switch c {
	case selfcheck.CodeLinkTextLost, selfcheck.CodeLinkTextAltered, selfcheck.CodeLinkStuckFragment, selfcheck.CodeLinkTextSilent:
		return true
	}
	return false
}

// faulty reports whether a verdict is one.
func faulty(c selfcheck.Code) bool {
	switch c {
	case selfcheck.CodeUnknown, selfcheck.CodeOK, selfcheck.CodeOKIdle, selfcheck.CodeLinkConnecting, selfcheck.CodeLinkTextDelayed:
		return false
	}
	return true
}

// reportedBy takes the agent's verdict on this very link: what it has proven
// need not be proven again from here.
func (l *link) reportedBy(v selfcheck.Verdict, counts *operator.Proof) {
	l.mu.Lock()
	before := l.verdict
	var proven bool
	switch v.Code {
	case selfcheck.CodeLinkTextLost, selfcheck.CodeLinkTextAltered, selfcheck.CodeLinkUplinkLost,
		selfcheck.CodeLinkStuckFragment, selfcheck.CodeLinkTextSilent:
		if before == "" && !v.Suspected && !l.gone {
			l.verdict, l.reported = v.Code, true
			proven = loses(v.Code)
		}
	case selfcheck.CodeOK, selfcheck.CodeOKIdle:
		if l.reported {
			l.verdict, l.reported = "", false
		}
	}
	after, read, gone := l.verdict, l.aligned, l.gone
	l.mu.Unlock()
	if after == before || gone {
		return
	}
	l.logVerdict(before, after, l.conn.Facts(time.Now()).Ledger)
	if after == "" {
		l.note(Degraded, "recovered", "", "the agent says so")
	} else {
		l.note("", Degraded, v.Code, clipSentence(fmt.Sprintf("the agent says %s: %s", v.Code, v.Sentence)))
	}
	switch {
	case proven:
		l.hub.opts.Delivery.PeerRead(l.agent, l.generation, read,
			delivery.Proof{Says: clipSentence(fmt.Sprintf("the agent says %s: %s", v.Code, v.Sentence)), Counts: counts})
	case after == "":
		l.hub.opts.Delivery.LinkUp(l) // trusted again
	}
}

// Polled takes in a poll; deliver tells that the agent asks for its commands there.
func (h *Hub) Polled(agent string, deliver bool, addr string, at time.Time) {
	h.mu.Lock()
	ep := h.endpoint(agent)
	ep.seen(at, viaPoll, addr)
	if deliver {
		ep.deliverAt = at
	}
	h.mu.Unlock()
	h.observe(agent)
}

// View is what the server sees of the agent, for the copy of it that calls, to be held beside
// the agent's own view. A machine that is to take another identity is none of the others'
// business: commands don't wait for it.
func (h *Hub) View(agent string, who wire.Copy) wire.ServerView {
	now := time.Now()
	s := h.sight(agent, now)
	h.mu.Lock()
	if ep := h.endpoint(agent); !ep.shuns(who) {
		s.links = slices.DeleteFunc(s.links, func(l wire.LinkView) bool {
			return l.Instance != who.Instance && slices.ContainsFunc(ep.copies, func(c *sighting) bool { return c.who.Instance == l.Instance && ep.shuns(*c.who) })
		})
	}
	h.mu.Unlock()
	v := wire.ServerView{Presence: s.presence(now), Links: neutral(s.links)}
	if v.Links == nil {
		v.Links = []wire.LinkView{}
	}
	n, oldest := h.opts.Delivery.Owed(agent)
	v.Owed = n
	if n > 0 && !oldest.IsZero() {
		age := now.Sub(oldest).Milliseconds()
		v.OldestOwed = &age
	}
	v.LastResult = h.opts.Delivery.LastResult(agent)
	return v
}

// Sighting is what is known of an agent's presence and program in this process.
type Sighting struct {
	Presence string // one of the words above
	// Version that its newest verified link told, and since when that is verified; zero: none is.
	Version       string
	VerifiedSince time.Time
	// Heard is the last sign of life; before the first one, since when this process
	// hears of agents: one that was there before may not have come yet.
	Heard time.Time
	// Hearing is since when that is.
	Hearing time.Time
}

// Sighted tells whether an agent is there now, and what it runs.
func (h *Hub) Sighted(agent string) Sighting {
	now := time.Now()
	seen := h.sight(agent, now)
	out := Sighting{Presence: seen.presence(now), Heard: h.started, Hearing: h.started}
	if seen.ep.seenAt.After(out.Heard) {
		out.Heard = seen.ep.seenAt
	}
	h.mu.Lock()
	var links []*link
	if ep := h.agents[agent]; ep != nil {
		links = append(links, ep.links...)
	}
	h.mu.Unlock()
	for _, l := range links { // oldest first
		l.mu.Lock()
		if !l.verifiedAt.IsZero() && !l.gone {
			out.Version, out.VerifiedSince = l.version, l.verifiedAt
		}
		l.mu.Unlock()
	}
	for _, l := range seen.elsewhere {
		if l.VerifiedAt.After(out.VerifiedSince) {
			out.Version, out.VerifiedSince = l.Version, l.VerifiedAt
		}
		if l.State == Verified && !seen.silent { // its node lives, and would tell otherwise
			out.Heard = now
		}
	}
	return out
}

// Overlay puts what is live over an agent as stored.
func (h *Hub) Overlay(a *operator.Agent) {
	now := time.Now()
	s := h.sight(a.ID, now)
	if a.Presence != Quarantined {
		a.Presence = s.presence(now)
	}
	a.Links, a.Copies = s.links, s.copies
	a.Owed, _ = h.opts.Delivery.Owed(a.ID)
	if a.LastSeen == nil || s.ep.seenAt.After(*a.LastSeen) {
		if at := s.ep.seenAt; !at.IsZero() {
			a.LastSeen, a.LastVia, a.Addr = new(at.UTC()), s.ep.via, s.ep.addr
		}
	}
	if at := s.ep.verifiedAt; !at.IsZero() {
		a.VerifiedAt = new(at.UTC())
	}
	a.ClockSkew, a.Findings = s.ep.skew, s.ep.reported().findings
	if s.ep.verdict != "" {
		a.Verdict, a.Sentence, a.VerdictAt = s.ep.verdict, s.ep.sentence, new(s.ep.verdictAt.UTC())
	}
	if a.Presence == Verified && a.Verdict == string(selfcheck.CodeLinkConnecting) { // said before it was
		a.Verdict, a.Sentence, a.VerdictAt = string(selfcheck.CodeOK), "", new(s.verifyAt.UTC())
	}
	if a.Presence == Degraded && s.verified && !s.ill() {
		a.Sentence = fmt.Sprintf("A command is unacknowledged for %v.", now.Sub(s.unacked).Round(time.Second))
	}
	if a.Presence == Verified && s.ordered(now) {
		a.Sentence = "Commands go by the link; it polls the second door on an operator's order."
	}
	a.Stopped = a.Presence == Offline && s.ep.stopped
	if a.Presence == Quarantined {
		a.Sentence = s.quarantine()
	}
	if s.duplicate {
		a.Verdict, a.Sentence, a.VerdictAt = string(selfcheck.CodeRouteDuplicate), s.rivals(), nil
	}
	for _, l := range s.links { // a fault seen from here outranks the agent's "ok"
		if l.Verdict != "" && (a.Verdict == "" || a.Verdict == string(selfcheck.CodeOK) || a.Verdict == string(selfcheck.CodeOKIdle)) {
			a.Verdict, a.Sentence, a.VerdictAt = l.Verdict, "", nil
		}
	}
}

// seenLink takes over a link's last frame into its endpoint before the link goes.
func (h *Hub) seenLink(l *link) {
	inbound, via, _ := l.glance(time.Now())
	h.mu.Lock()
	defer h.mu.Unlock()
	h.endpoint(l.agent).seen(inbound, via, l.addr)
}

// flush looks at all agents, and hands on what was seen; the store writes it in one batch. Of
// last, nothing is kept back. Of many thousand agents nearly none has anything to tell: what is
// looked at of each is little, and as seldom as it can be.
func (h *Hub) flush(last bool) {
	now := time.Now()
	suspect := map[string]bool{} // whose presence time alone may have changed
	var several []string         // that more than one machine was heard of
	resolved := false
	type lonely struct {
		agent string
		ep    *endpoint
	}
	var lone []lonely
	h.mu.Lock()
	all := make([]glanced, 0, len(h.agents))
	for agent, ep := range h.agents {
		for _, l := range ep.links {
			all = append(all, glanced{ep: ep, l: l})
		}
		if len(ep.links) == 0 && ep.dirty {
			lone = append(lone, lonely{agent, ep})
		}
		if len(ep.copies) > 1 || ep.state != identitySole {
			several = append(several, agent)
		}
		resolved = resolved || len(ep.resolved) > 0
		switch ep.told.presence {
		case Offline, Verified, Gone, "": // told of when something happens
		default:
			suspect[agent] = true
		}
	}
	h.mu.Unlock()

	unacknowledged := h.opts.Delivery.AnyUnacknowledged()
	faults := map[string]selfcheck.Code{}
	for i := range all {
		g := &all[i]
		var well bool
		g.inbound, g.via, well = g.l.glance(now)
		owes := unacknowledged && !h.opts.Delivery.Unacknowledged(g.l.agent).IsZero()
		if well && !owes {
			continue
		}
		v := g.l.look(now) // closer
		if v.Verdict != "" {
			faults[g.l.agent] = selfcheck.Code(v.Verdict)
		}
		if v.silent || v.State != Verified || owes {
			suspect[g.l.agent] = true
		}
	}
	h.mu.Lock()
	for _, g := range all {
		g.ep.seen(g.inbound, g.via, g.l.addr)
		h.keep(g.l.agent, g.ep, now, last)
	}
	for _, l := range lone {
		h.keep(l.agent, l.ep, now, last)
	}
	h.mu.Unlock()

	for _, agent := range several {
		h.rejudge(agent)
	}
	for _, agent := range h.awaited(now) {
		suspect[agent] = true
	}
	for agent := range suspect {
		h.observe(agent)
	}
	h.watchFleet(faults, now)
	if h.opts.Cluster == nil || h.opts.Cluster.Leads() {
		h.missed(now)
	}
	if resolved {
		h.remind(now)
	}
}

// keep has the store note the agent's last sign of life, if it is to know of it yet. Call with
// mu held.
func (h *Hub) keep(agent string, ep *endpoint, now time.Time, last bool) {
	at := selfcheck.At(now)
	if !ep.dirty || len(ep.links) > 0 && !last && h.opts.Cluster == nil && at < ep.keepAt {
		return
	}
	ep.dirty, ep.keepAt = false, at.Add(storeSeenEvery-rand.N(storeSeenEvery/2)) // not all at once, for ever
	h.opts.Store.Seen(agent, ep.seenAt, ep.via)                                  // never blocks
}
