package hub

import (
	"time"

	"gururmm/selfcheck"
	"gururmm/server/probe"
)

// ProbeLink gives the link that a command would go on now, for a probe of that way; nil with
// why there is none. Of a cluster it is a link of this node.
func (h *Hub) ProbeLink(agent string) (probe.Link, string) {
	h.mu.Lock()
	var mine []*link
	if ep := h.agents[agent]; ep != nil && !ep.quarantined && !ep.removed {
		mine = append(mine, ep.links...)
	}
	h.mu.Unlock()
	for i := len(mine) - 1; i >= 0; i-- { // the newest first
		if ok, _ := mine[i].Deliverable(); ok {
			return mine[i], ""
		}
	}
	if len(mine) == 0 {
		for _, l := range h.sight(agent, time.Now()).links {
			if l.Node != "" {
				return nil, "its link is at node " + l.Node + ", and probes go by the links of the node that is asked: ask that one (--server)"
			}
		}
	}
	_, why := h.Why(agent)
	return nil, why
}

// Barred tells why nothing may be sent to the agent on its own account; empty: it may.
func (h *Hub) Barred(agent string) string {
	s := h.sight(agent, time.Now())
	switch {
	case s.ep.removed:
		return "it was removed"
	case s.ep.quarantined || s.ep.isolated:
		return "it is quarantined (gururmm agents quarantine " + agent + " --lift)"
	case s.duplicate:
		return "several machines hold its identity, and which one would answer is not known; choose: gururmm agents resolve " + agent
	}
	return ""
}

// Ping asks the agent for its ledger.
func (l *link) Ping() { l.conn.Ping(true) }

// Standing is what both ends know of the link.
func (l *link) Standing() probe.Standing {
	now := time.Now()
	facts := l.conn.Facts(now)
	v := facts.Ledger
	ended := l.conn.Err()
	l.mu.Lock()
	s := probe.Standing{Read: l.aligned, RTT: rtt(v), Verdict: l.verdict}
	gone := l.gone
	l.mu.Unlock()
	if v.PongAge != nil {
		s.Pong = now.Add(-*v.PongAge)
	}
	switch {
	case ended != nil:
		var said selfcheck.Code
		s.Ended, said, _ = ending(ended, "", facts.Held)
		s.Verdict = nearer(s.Verdict, said)
	case gone:
		s.Ended = "it is being closed"
	}
	return s
}
