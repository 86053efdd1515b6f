package hub

import (
	"cmp"
	"fmt"
	"maps"
	"time"

	"gururmm/operator"
	"gururmm/selfcheck"
	"gururmm/wire"
)

// sight is everything presence is computed from, at one moment.
type sight struct {
	links     []wire.LinkView
	duplicate bool
	verified  bool      // by a deliverable link
	degraded  bool      // a verified link that is not deliverable
	ending    bool      // a link has ended and is still listed: who ended it tells why, in a moment
	verifyAt  time.Time // since when the newest verified link is
	silent    bool      // nothing comes on the newest link
	inbound   time.Time // when its last frame came
	unacked   time.Time // since when a link that is up leaves a command unacknowledged
	copies    []operator.Copy
	elsewhere []viewLink // those of links that are at other nodes
	ep        endpoint   // a copy
}

func (h *Hub) sight(agent string, now time.Time) sight {
	h.mu.Lock()
	var s sight
	var links []*link
	leaving := map[*link]bool{} // of machines that are to take another identity
	if ep := h.agents[agent]; ep != nil {
		s.ep = *ep
		links = append(links, ep.links...)
		for _, l := range links {
			leaving[l] = ep.shuns(*l.copy())
		}
		s.copies = h.copies(ep, agent, now)
	}
	elsewhere := maps.Clone(s.ep.elsewhere)
	h.mu.Unlock()
	s.ep.links, s.ep.copies, s.ep.elsewhere, s.unacked = nil, nil, nil, h.opts.Delivery.Unacknowledged(agent)
	s.duplicate = s.ep.state == identityDuplicate
	for _, l := range links {
		v := l.look(now)
		if v.gone {
			s.ending = true
			continue
		}
		s.links = append(s.links, v.LinkView)
		if leaving[l] {
			continue
		}
		s.silent, s.inbound = v.silent, v.inbound
		switch v.State {
		case Verified:
			s.verified, s.verifyAt = true, v.verifiedAt
		case Degraded:
			s.degraded = true
		}
		s.ep.seen(v.inbound, v.via, l.addr)
	}
	if len(elsewhere) > 0 {
		s.add(elsewhere, h.opts.Cluster.NodeName, now)
	}
	return s
}

// looked is a link's view and what the view has no room for.
type looked struct {
	wire.LinkView
	verifiedAt time.Time
	silent     bool
	inbound    time.Time
	via        string
	gone       bool
}

func (l *link) look(now time.Time) looked {
	facts := l.conn.Facts(now)
	deliverable, why := l.Deliverable()
	l.mu.Lock()
	defer l.mu.Unlock()
	v := looked{
		LinkView: wire.LinkView{
			Link: l.id, Instance: cmp.Or(l.who, nobody).Instance, Generation: l.generation,
			State:   Connecting,
			Written: facts.Ledger.Local.Written, Read: facts.Ledger.Local.Read,
			Queued: facts.Queued, AgeMS: now.Sub(l.opened).Milliseconds(),
		},
		verifiedAt: l.verifiedAt,
		silent:     l.verdict == selfcheck.CodeLinkSilent || l.quiet(facts.Inbound, now),
		inbound:    facts.Inbound, via: l.via(facts.Inbound), gone: l.gone,
	}
	v.PongAgeMS, v.PingPendingMS = millis(facts.Ledger.PongAge), millis(facts.Ledger.PingPending)
	if facts.Held > 0 {
		v.HeldMS = new(facts.Held.Milliseconds())
	}
	if facts.Ledger.Peer != nil {
		read := facts.Ledger.Peer.Read
		v.PeerRead = &read
	}
	switch {
	case l.verifiedAt.IsZero():
	case deliverable:
		v.State = Verified
	default:
		v.State, v.Verdict = Degraded, why
	}
	if v.Verdict == "" && l.identity != identitySole {
		v.Verdict = string(selfcheck.CodeRouteDuplicate)
	}
	return v
}

// millis is d as a view has it; nil: not known.
func millis(d *time.Duration) *int64 {
	if d == nil {
		return nil
	}
	return new(d.Milliseconds())
}

// glanced is when a link of an agent was last heard of.
type glanced struct {
	ep      *endpoint
	l       *link
	inbound time.Time
	via     string
}

// glance tells when and how the link was last heard of, and whether it is plainly well: look
// would tell nothing else of it.
func (l *link) glance(now time.Time) (inbound time.Time, via string, well bool) {
	inbound, _, calm := l.conn.Pulse(now)
	l.mu.Lock()
	well = calm && l.verdict == "" && !l.verifiedAt.IsZero() && l.identity == identitySole && !l.gone
	l.mu.Unlock()
	return inbound, l.via(inbound), well && !l.quiet(inbound, now)
}

// quiet reports whether nothing has come for too long.
func (l *link) quiet(inbound, now time.Time) bool {
	return now.Sub(inbound) > max(silentMin, l.timing.ping*3/2)
}

// via is how the link was heard of at inbound.
func (l *link) via(inbound time.Time) string {
	if selfcheck.Instant(l.lastText.Load()) >= selfcheck.At(inbound) {
		return viaText
	}
	return viaPing
}

// presence puts it in one word.
func (s sight) presence(now time.Time) string {
	oob := !s.ep.deliverAt.IsZero() && now.Sub(s.ep.deliverAt) < oobWindow
	switch {
	case s.ep.quarantined, s.ep.isolated:
		return Quarantined
	case s.duplicate:
		return Duplicate
	case oob && !s.ordered(now) && (!s.verified || s.ep.deliverAt.After(s.verifyAt)):
		return OutOfBand
	case len(s.links) > 0 && s.silent:
		return Silent
	case s.verified && (s.ill() || !s.unacked.IsZero()):
		return Degraded
	case s.verified:
		return Verified
	case s.degraded:
		return Degraded
	case len(s.links) > 0:
		return Connecting
	case !s.ep.stopped && s.ep.beacon != nil && now.Sub(s.ep.beacon.at) < oobWindow:
		return Connecting
	}
	return Offline
}

// ordered reports whether the agent asks for its commands by the second door
// though it has said, of this link, that it is well: an operator wants it to.
func (s sight) ordered(now time.Time) bool {
	code := selfcheck.Code(s.ep.verdict)
	well := code == selfcheck.CodeOK || code == selfcheck.CodeOKIdle
	return s.verified && !s.silent && well && s.ep.verdictAt.After(s.verifyAt) &&
		s.ep.deliverAt.After(s.verifyAt) && now.Sub(s.ep.deliverAt) < oobWindow
}

// ill reports whether the agent's own last word, since the link was verified, is a fault.
func (s sight) ill() bool {
	if s.ep.verdictAt.Before(s.verifyAt) {
		return false
	}
	return faulty(selfcheck.Code(s.ep.verdict))
}

// quarantine tells who refuses commands: server, endpoint or both.
func (s sight) quarantine() string {
	switch {
	case !s.ep.isolated:
		return "Quarantined: the server gives it no commands and no link; the endpoint itself has not confirmed it yet."
	case !s.ep.quarantined:
		return "Quarantined by its own word, though not by this server's: it refuses commands until that is lifted (gururmm agents quarantine --lift)."
	}
	return "Quarantined: the server gives it no commands and no link, and the endpoint would refuse them."
}

// rivals tells of the machines that hold one identity, and what to do.
func (s sight) rivals() string {
	n := 0
	for _, c := range s.copies {
		if c.Standing == operator.CopyRival {
			n++
		}
	}
	if n < 2 { // seen in turns
		return "Several machines hold this identity, commands wait: choose with gururmm agents resolve."
	}
	return fmt.Sprintf("%d machines hold this identity, commands wait: choose with gururmm agents resolve.", n)
}
