package hub

import (
	"fmt"
	"time"

	"gururmm/oob"
	"gururmm/operator"
	"gururmm/selfcheck"
	"gururmm/server/delivery"
	"gururmm/session"
)

const (
	// silentAfter and silentTrips: a ping that waits for so long, while nothing at all
	// comes, on a link that leaves a command unacknowledged, is evidence that nothing passes.
	silentAfter = 5 * time.Second
	silentTrips = 8
)

// grace is how long a gap is only suspected: a text may merely have been
// overtaken by a ping.
func grace(v selfcheck.LedgerView) time.Duration {
	return max(time.Second, 4*rtt(v))
}

// proof names what the server's side of the ledger proves; empty: nothing. Up
// is what was written here and not read there: text lost on its way to the agent.
func proof(v selfcheck.LedgerView) selfcheck.Code {
	over := func(g *selfcheck.Gap) bool { return g != nil && g.Age >= grace(v) }
	switch {
	case over(v.Up):
		return selfcheck.CodeLinkTextLost
	case v.Altered != "" || over(v.Excess):
		return selfcheck.CodeLinkTextAltered
	case over(v.Down):
		return selfcheck.CodeLinkUplinkLost
	}
	return ""
}

// changed takes in new evidence. The reader calls it with each frame: nothing in it blocks,
// and the whole account is looked at only where a verdict may come of it, or go.
func (l *link) changed(e session.Evidence) {
	l.mu.Lock()
	calm := e.Calm && l.verdict == "" && l.challenged.IsZero() && !l.gone
	read := calm && e.PeerRead > l.aligned
	if read {
		l.aligned = e.PeerRead
	}
	verified := !l.verifiedAt.IsZero()
	l.mu.Unlock()
	switch {
	case !calm:
		l.weigh()
	case read && verified:
		l.hub.opts.Delivery.PeerRead(l.agent, l.generation, e.PeerRead, delivery.Proof{})
	}
}

// weigh takes in the account as a whole.
func (l *link) weigh() {
	l.mu.Lock()
	if l.gone {
		l.mu.Unlock()
		return
	}
	// Looked at with mu held: of two that weigh at once, the later one has the fresher account.
	now := time.Now()
	f := l.conn.Facts(now)
	v, code := f.Ledger, proof(f.Ledger)
	answered := !l.challenged.IsZero() && !l.answered && newer(v.PongAge, v.PeerAge, now.Sub(l.challenged))
	l.answered = l.answered || answered
	lives := !l.challenged.IsZero() && !l.lives && v.RTT != nil && newer(v.PongAge, nil, now.Sub(l.challenged)-*v.RTT)
	l.lives = l.lives || lives
	agreed := f.PeerRead > l.aligned
	if agreed {
		l.aligned = f.PeerRead
	}
	before := l.verdict
	switch {
	case code != "" && (before == "" || before == selfcheck.CodeLinkSilent):
		l.verdict, l.reported = code, false
	case before == selfcheck.CodeLinkSilent:
		l.verdict = "" // it speaks again
	case code == "" && before != "" && !l.reported && v.Up == nil && v.Down == nil && v.Altered == "":
		l.verdict = "" // it was only delayed
	}
	after, aligned, verified := l.verdict, l.aligned, !l.verifiedAt.IsZero()
	l.mu.Unlock()

	if after != before {
		l.logVerdict(before, after, v)
		l.noteVerdict(before, after, v)
		l.hub.observe(l.agent)
	}
	if answered || lives {
		l.hub.rejudge(l.agent)
	}
	if !verified {
		return
	}
	switch d := l.hub.opts.Delivery; {
	case after != before && after == "":
		d.LinkUp(l) // its gap has closed
	case after != before && after != selfcheck.CodeLinkUplinkLost:
		// Which texts were read since the digests last agreed can't be known: all of
		// them go back, and the agent recognises a repeat.
		d.PeerRead(l.agent, l.generation, aligned, delivery.Proof{Says: quote(after, v), Counts: counted(after, v, now)})
	case agreed && after == "":
		d.PeerRead(l.agent, l.generation, aligned, delivery.Proof{})
	}
}

// quote tells what in v proves code, for people: the very counts.
func quote(code selfcheck.Code, v selfcheck.LedgerView) string {
	if code == selfcheck.CodeLinkTextLost && v.Peer != nil && v.Up != nil {
		return fmt.Sprintf("%s: of %d texts written before its ledger the agent had read %d: %d missing",
			code, v.Peer.Read+v.Up.Missing, v.Peer.Read, v.Up.Missing)
	}
	if g := v.Down; code == selfcheck.CodeLinkUplinkLost && v.Peer != nil && g != nil {
		return fmt.Sprintf("%s: of %d texts that the agent had written before its ledger %d came: %d missing",
			code, v.Peer.Written, v.Peer.Written-min(g.Missing, v.Peer.Written), g.Missing)
	}
	return string(code) + ": both ends' digests of what was written and read differ"
}

// counted gives what in v, an account of the server's as of now, shows that texts to the agent
// were lost; nil: it does not.
func counted(code selfcheck.Code, v selfcheck.LedgerView, now time.Time) *operator.Proof {
	if v.Peer == nil || v.Up == nil || v.PeerAge == nil {
		return nil
	}
	last := now.Add(-*v.PeerAge)
	return proven(code, "server", v.Peer.Read+v.Up.Missing, v.Peer.Read, *v.Up, last.Add(-v.Up.Age), last)
}

// reported gives what the agent's own account, which came at the time, shows of the same.
func reported(r oob.Report, at time.Time) *operator.Proof {
	v := r.Snapshot.Link.Ledger
	if v.Peer == nil || v.Down == nil || v.PeerAge == nil {
		return nil
	}
	return proven(r.Verdict.Code, "agent", v.Peer.Written, v.Peer.Written-min(v.Down.Missing, v.Peer.Written), *v.Down, at.Add(-v.Down.Age), at.Add(-*v.PeerAge))
}

func proven(code selfcheck.Code, end string, written, read uint64, g selfcheck.Gap, first, last time.Time) *operator.Proof {
	return &operator.Proof{Verdict: string(code), End: end, Written: written, Read: read, Pings: g.Pings, Heartbeats: g.Heartbeats,
		First: first.UTC().Truncate(time.Microsecond), Last: last.UTC().Truncate(time.Microsecond)}
}

func (l *link) logVerdict(before, after selfcheck.Code, v selfcheck.LedgerView) {
	attrs := []any{"written", v.Local.Written, "read", v.Local.Read, "rtt", rtt(v).Round(time.Microsecond)}
	if v.Peer != nil {
		attrs = append(attrs, "agent_read", v.Peer.Read, "agent_written", v.Peer.Written)
	}
	if after == "" {
		l.log().Info("link recovered: "+recovered(before), append(attrs, "was", before)...)
		return
	}
	l.log().Warn("link degraded", append(attrs, "verdict", after)...)
}

// recovered says what became of a link that was under verdict.
func recovered(verdict selfcheck.Code) string {
	if verdict == selfcheck.CodeLinkSilent {
		return "it speaks again"
	}
	return "text was delayed, not lost"
}

// silence is how long a ping has awaited its pong without any frame since; 0: none has.
func silence(f session.Facts, now time.Time) time.Duration {
	p := f.Ledger.PingPending
	if p == nil || now.Sub(f.Inbound) < *p {
		return 0
	}
	return *p
}

// Ask has the link tell whether it lives, as a command on it is not acknowledged.
func (l *link) Ask() (silent time.Duration) {
	now := time.Now()
	silent = silence(l.conn.Facts(now), now)
	l.mu.Lock()
	l.asked = selfcheck.At(now)
	l.mu.Unlock()
	l.conn.Ping(true)
	l.hub.wheel.atLatest(l, now.Add(max(0, silentAfter-silent)))
	return silent
}

// silentAt is when a link that was asked whether it lives is silent, if nothing comes until
// then; zero: it has answered, or was not asked.
func (l *link) silentAt(f session.Facts, now time.Time) time.Time {
	limit := max(silentAfter, min(silentTrips*rtt(f.Ledger), l.timing.dead))
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.asked.IsZero() || l.gone || l.verdict != "" || l.verifiedAt.IsZero() {
		return time.Time{}
	}
	if d := silence(f, now); d > 0 {
		return now.Add(limit - d)
	}
	if at := l.asked.Time(now).Add(silentAfter); now.Before(at) { // the ping may not be written yet
		return at
	}
	l.asked = 0
	return time.Time{}
}

// fallSilent takes it that nothing comes on the link.
func (l *link) fallSilent(f session.Facts, now time.Time) {
	d := silence(f, now)
	if d == 0 {
		return // not a ping is written: that is the writer's matter
	}
	l.mu.Lock()
	if l.gone || l.verdict != "" { // what was proven since it was looked at stands
		l.mu.Unlock()
		return
	}
	l.verdict, l.reported, l.asked = selfcheck.CodeLinkSilent, false, 0
	l.mu.Unlock()
	l.logVerdict("", selfcheck.CodeLinkSilent, f.Ledger)
	l.note(Verified, Degraded, selfcheck.CodeLinkSilent, fmt.Sprintf("%s: a ping has not been answered for %v, and nothing has come since", selfcheck.CodeLinkSilent, d.Round(100*time.Millisecond)))
	l.hub.observe(l.agent)
}

// newer reports whether a pong or a ledger came no more than limit ago.
func newer(pong, peer *time.Duration, limit time.Duration) bool {
	return pong != nil && *pong <= limit || peer != nil && *peer <= limit
}

// Deliverable reports whether commands may be given to this link, and if not why.
func (l *link) Deliverable() (bool, string) {
	f := l.conn.Facts(time.Now())
	v := f.Ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.gone || f.Over:
		return false, "the link has ended"
	case l.verifiedAt.IsZero():
		return false, "the link is not verified yet"
	case l.identity == identityDuplicate:
		return false, string(selfcheck.CodeRouteDuplicate)
	case l.identity == identityContested:
		return false, string(selfcheck.CodeRouteDuplicate) + " suspected: another machine's link is being asked"
	case l.verdict != "":
		return false, string(l.verdict)
	case v.Up != nil:
		return false, string(selfcheck.CodeLinkTextLost) + " suspected"
	case v.Altered != "" || v.Excess != nil:
		return false, string(selfcheck.CodeLinkTextAltered) + " suspected"
	case v.Down != nil:
		return false, string(selfcheck.CodeLinkUplinkLost) + " suspected"
	}
	return true, ""
}
