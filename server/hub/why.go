package hub

import (
	"fmt"
	"time"

	"gururmm/internal/moment"
	"gururmm/selfcheck"
	"gururmm/wire"
)

// Why tells what keeps the agent from having an open link, for people who wait,
// and the kind of it. An agent that is heard in any way is never called offline.
func (h *Hub) Why(agent string) (kind, clause string) {
	now := time.Now()
	s := h.sight(agent, now)
	if s.ep.quarantined || s.ep.isolated {
		return Quarantined, "it is quarantined (gururmm agents quarantine " + agent + " --lift)"
	}
	if s.duplicate {
		return Duplicate, "several machines hold its identity (gururmm agents show " + agent + ")"
	}
	if s.ep.state == identityContested {
		return Duplicate + "?", "another machine called with its identity: both are asked whether they live"
	}
	if n := len(s.links); n > 0 {
		if l := s.links[n-1]; l.Node != "" {
			return whyElsewhere(l)
		}
		return s.whyLink(s.links[n-1], now)
	}
	ago := func(t time.Time) time.Duration { return now.Sub(t).Round(time.Second) }
	recent := func(t time.Time) bool { return !t.IsZero() && now.Sub(t) < oobWindow }
	switch {
	case recent(s.ep.deliverAt):
		return "poll", fmt.Sprintf("it has no link, and no poll by the second door for %v", ago(s.ep.deliverAt))
	case s.ep.stopped:
		return Offline, fmt.Sprintf("offline: it was stopped in order %v ago (%s) and comes back when somebody starts it", ago(s.ep.seenAt), moment.UTC(s.ep.seenAt))
	case recent(s.ep.reported().at):
		return "beacon", fmt.Sprintf("it has no link, but reported by the second door %v ago: %s", ago(s.ep.reported().at), s.ep.verdict)
	case recent(s.ep.seenAt):
		return "gone", fmt.Sprintf("it has no link; last heard of %v ago by %s", ago(s.ep.seenAt), s.ep.via)
	case s.ep.seenAt.IsZero():
		return Offline, fmt.Sprintf("offline: not heard of since this server started at %s", moment.UTC(h.started))
	}
	return Offline, fmt.Sprintf("offline since %s, last heard of by %s", moment.UTC(s.ep.seenAt), s.ep.via)
}

// whyLink tells what is wrong with the newest link, with both ends' counts.
func (s sight) whyLink(l wire.LinkView, now time.Time) (kind, clause string) {
	counts := fmt.Sprintf("(written %d, the agent has not told what it read)", l.Written)
	if l.PeerRead != nil {
		counts = fmt.Sprintf("(written %d, the agent has read %d)", l.Written, *l.PeerRead)
	}
	switch {
	case s.silent:
		return Silent, fmt.Sprintf("connected, but nothing has come on its link for %v %s", now.Sub(s.inbound).Round(time.Second), counts)
	case l.State == Connecting:
		return Connecting, "its new link is not verified yet " + counts
	case l.State == Verified:
		return Verified, "its link was verified only just now"
	}
	is := "is deaf"
	switch selfcheck.Code(l.Verdict) {
	case selfcheck.CodeLinkUplinkLost:
		is = "loses what it says"
	case selfcheck.CodeLinkTextAltered:
		is = "changes texts"
	case selfcheck.CodeRouteDuplicate:
		is = "is not the only one"
	}
	return l.Verdict, fmt.Sprintf("connected, but its link %s: %s %s", is, l.Verdict, counts)
}
