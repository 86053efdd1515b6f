package hub

import (
	"cmp"
	"slices"
	"time"

	"github.com/gorilla/websocket"

	"gururmm/operator"
	"gururmm/selfcheck"
	"gururmm/session"
	"gururmm/wire"
)

// A verdict that many agents come to within a short time has one cause, and it is not
// theirs. It is told as such, and while it lasts their recovery is paced: each agent's next
// steps are spread over a time that fits the fleet, or held, as the server is set.

const (
	// fleetLeast and fleetPart: so many agents, and one in so many of those that are there.
	fleetLeast = 5
	fleetPart  = 5
	// fleetWindow is within what time they come to it.
	fleetWindow = 2 * time.Minute
	// fleetCalm is for how long they must be fewer than half as many until it is over: a step
	// that helped for a moment is no end of it.
	fleetCalm = time.Minute
	// paceLeast and paceMost bound the time over which recovery is spread.
	paceLeast = 10 * time.Second
	paceMost  = 2 * time.Minute
)

// Recovery is what agents are told while a verdict is fleet-wide.
type Recovery string

// The ways to pace it.
const (
	RecoverySpread  Recovery = "spread"   // each step at a moment of its own
	RecoveryHold    Recovery = "hold"     // no forced step; commands go by the second door
	RecoveryAsUsual Recovery = "as-usual" // nothing is told
)

// fleetwide is a verdict of many.
type fleetwide struct {
	since  time.Time
	agents int
	fewer  time.Time // since when it is of fewer than half as many as it takes; zero: it is not
}

// symptom is an agent's verdict that others may have in common.
type symptom struct {
	code  string
	since time.Time
}

// pressing is what is fleet-wide, and what follows; guarded by the hub's mu.
type pressing struct {
	by   map[string]*fleetwide // by code
	of   int                   // agents that are there
	over time.Duration         // recovery is spread over; 0: nothing is
}

// Fleetwide gives the verdicts that many agents have come to, the most frequent first,
// and how many agents are there.
func (h *Hub) Fleetwide() (all []operator.Fleetwide, of int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for code, f := range h.pressing.by {
		title, _, action := selfcheck.Describe(selfcheck.Code(code))
		v := operator.Fleetwide{Verdict: code, Title: title, Action: action, Agents: f.agents, Of: h.pressing.of, Since: f.since.UTC(), Recovery: string(h.opts.Recovery)}
		if h.opts.Recovery == RecoverySpread {
			v.OverMS = h.pressing.over.Milliseconds()
		}
		all = append(all, v)
	}
	slices.SortFunc(all, func(x, y operator.Fleetwide) int {
		return cmp.Or(y.Agents-x.Agents, cmp.Compare(x.Verdict, y.Verdict))
	})
	return all, h.pressing.of
}

// watchFleet looks at all agents' verdicts; linked are those that their links show from
// here. The agents are told if what they are to do has changed.
func (h *Hub) watchFleet(linked map[string]selfcheck.Code, now time.Time) {
	h.mu.Lock()
	there, count, fresh := 0, map[string]int{}, map[string]int{}
	for agent, ep := range h.agents {
		code := ep.common(linked[agent])
		switch {
		case code == "":
			ep.symptom = nil
		case ep.symptom == nil || ep.symptom.code != code:
			ep.symptom = &symptom{code, now}
		}
		if ep.removed || ep.quarantined || len(ep.links) == 0 && now.Sub(ep.seenAt) > oobWindow {
			continue
		}
		if there++; code != "" {
			count[code]++
			if now.Sub(ep.symptom.since) < fleetWindow {
				fresh[code]++
			}
		}
	}
	p := &h.pressing
	least := max(fleetLeast, there/fleetPart)
	var began, ended []string
	for code, n := range fresh {
		if p.by[code] == nil && n >= least {
			if p.by == nil {
				p.by = map[string]*fleetwide{}
			}
			p.by[code] = &fleetwide{since: now}
			began = append(began, code)
		}
	}
	for code, f := range p.by {
		f.agents = count[code]
		switch {
		case f.agents*2 >= least:
			f.fewer = time.Time{}
		case f.fewer.IsZero():
			f.fewer = now
		case now.Sub(f.fewer) >= fleetCalm:
			delete(p.by, code)
			ended = append(ended, code)
		}
	}
	before := p.over
	p.of, p.over = there, 0
	if len(p.by) > 0 {
		if p.over = before; before == 0 {
			p.over = min(paceMost, max(paceLeast, 2*h.opts.Returning(there)))
		}
	}
	changed := before != p.over && h.opts.Recovery != RecoveryAsUsual
	h.mu.Unlock()

	for _, code := range began {
		h.log.Warn("many agents come to one verdict: the cause is a common one", "verdict", code, "agents", count[code], "of", there, "recovery", h.opts.Recovery)
	}
	for _, code := range ended {
		h.log.Info("a fleet-wide verdict is over", "verdict", code, "agents", count[code], "of", there)
	}
	if changed {
		h.tellPolicies()
	}
}

// common is the verdict on an agent that others may have in common; linked is what its
// link shows from here. Call with mu held.
func (ep *endpoint) common(linked selfcheck.Code) string {
	code := CodeOf(ep.verdict)
	if !faulty(selfcheck.Code(code)) {
		code = CodeOf(string(linked))
	}
	switch c := selfcheck.Code(code); {
	case code == OtherVerdict, !faulty(c), c == selfcheck.CodeLinkQuarantined, c == selfcheck.CodeAgentRemoved, c == selfcheck.CodeRouteDuplicate:
		return ""
	}
	return code
}

// Policy is what is set for an agent, and how its recovery is paced at the moment.
func (h *Hub) Policy(agent string) wire.Policy {
	p := h.opts.Policy(agent)
	h.mu.Lock()
	over := h.pressing.over
	h.mu.Unlock()
	switch {
	case over == 0:
	case h.opts.Recovery == RecoveryHold:
		p.HoldRecovery = true
	case h.opts.Recovery == RecoverySpread:
		p.SpreadRecoveryMS = max(p.SpreadRecoveryMS, over.Milliseconds())
	}
	return p
}

// Paced gives the policy for an agent that reports a fault by the second door while recovery
// is paced: its link may carry none; ok is false if it is told nothing.
func (h *Hub) Paced(agent string) (env wire.Envelope, ok bool) {
	h.mu.Lock()
	ep := h.agents[agent]
	told := h.pressing.over > 0 && h.opts.Recovery != RecoveryAsUsual && ep != nil && ep.common("") != ""
	h.mu.Unlock()
	if !told {
		return env, false
	}
	env, err := h.opts.Sign(wire.TypeConfigUpdate, wire.ConfigUpdate{Agent: agent, Policy: h.Policy(agent)})
	if err != nil {
		h.log.Error("policy not signed", "error", err)
	}
	return env, err == nil
}

// tellPolicies has all links told of the policy that is in force now.
func (h *Hub) tellPolicies() {
	h.mu.Lock()
	var links []*link
	for _, ep := range h.agents {
		links = append(links, ep.links...)
	}
	h.mu.Unlock()
	for _, l := range links {
		if _, authed := l.presence(); authed {
			l.tellPolicy()
		}
	}
}

// maxConfigs bounds the policies of a link whose acknowledgement is awaited: the one told
// first may be acknowledged after the next was sent.
const maxConfigs = 4

// config is a policy that a link was told of.
type config struct {
	version int64
	hash    string
}

// tellPolicy sends the policy in force.
func (l *link) tellPolicy() {
	p := l.hub.Policy(l.agent)
	env, err := l.hub.opts.Sign(wire.TypeConfigUpdate, wire.ConfigUpdate{Agent: l.agent, Policy: p})
	if err != nil {
		l.log().Error("policy not signed", "error", err)
		l.end(websocket.CloseInternalServerErr, "", err)
		return
	}
	l.mu.Lock()
	l.configs = append(l.configs, config{p.Version, hash(env.Payload)})
	l.configs = l.configs[max(0, len(l.configs)-maxConfigs):]
	l.mu.Unlock()
	l.reply(env, session.SendOptions{Flush: true})
}

// acknowledged reports whether the link was told of c, and forgets it, and what it was told before.
func (l *link) acknowledged(c config) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := slices.Index(l.configs, c)
	if i < 0 {
		return false
	}
	if l.configs = l.configs[i+1:]; len(l.configs) == 0 {
		l.configs = nil
	}
	return true
}
