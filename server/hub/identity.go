package hub

import (
	"cmp"
	"slices"
	"time"

	"github.com/gorilla/websocket"

	"gururmm/selfcheck"
	"gururmm/wire"
)

// identify settles who holds the identity now that l has said which copy it
// is: of links of one copy only the newest stays; links of others are asked whether
// they live, and so is one that comes back after another of its boot was heard.
func (h *Hub) identify(l *link) {
	h.consult(l.agent)
	now := time.Now()
	var replaced []*link
	h.mu.Lock()
	ep := h.endpoint(l.agent)
	mine := l.copy()
	c, asked := h.hear(ep, l.agent, mine, wire.ChannelLink, l.addr, now)
	if c.linked.IsZero() {
		c.linked = now
	}
	c.told, c.open = false, ""
	for _, o := range ep.links {
		who, authed := o.presence()
		if o == l || !authed {
			continue
		}
		newer, older := l, o
		if o.generation > l.generation {
			newer, older = o, l
		}
		if who.Instance == mine.Instance {
			replaced = append(replaced, older)
			asked = slices.DeleteFunc(asked, func(l *link) bool { return l == older })
			continue
		}
		if !ep.shuns(*mine) && !ep.shuns(who) {
			if !slices.Contains(asked, older) {
				older.doubt(now)
				asked = append(asked, older)
			}
			if who.SameBoot(*mine) && ep.since(*mine).Before(ep.since(who)) && !slices.Contains(asked, l) {
				l.doubt(now)
				asked = append(asked, l)
			}
			l.log().Warn("another machine holds the same identity", "older_generation", older.generation, "newer_generation", newer.generation)
		}
	}
	h.mu.Unlock()

	for _, o := range replaced {
		o.end(websocket.CloseServiceRestart, "", errReplaced)
	}
	if len(asked) > 0 {
		h.challenge(l.agent, asked, now)
	}
	if newer := h.newerElsewhere(l); newer {
		l.end(websocket.CloseServiceRestart, "", errReplaced)
	}
	h.rejudge(l.agent)
	h.observe(l.agent)
}

// since is when who was first heard; zero: never. Call with mu held.
func (ep *endpoint) since(who wire.Copy) (t time.Time) {
	for _, c := range ep.copies {
		if c.who.Instance == who.Instance {
			t = c.since
		}
	}
	return t
}

// copy is which copy of the identity the link is of; nobody's until it is authed.
func (l *link) copy() *wire.Copy {
	l.mu.Lock()
	defer l.mu.Unlock()
	return cmp.Or(l.who, nobody)
}

var nobody = new(wire.Copy)

// presence is which copy the link's auth speaks of, without its past.
func (l *link) presence() (who wire.Copy, authed bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.who != nil {
		who = *l.who
		who.Before = nil
	}
	return who, l.who != nil && !l.gone
}

// rejudge looks again at who holds the identity, after an answer or some time.
func (h *Hub) rejudge(agent string) {
	h.mu.Lock()
	j := h.judgeIdentity(agent, h.endpoint(agent))
	h.mu.Unlock()
	h.follow(agent, j)
}

// judged is what follows once the identity's links have been judged.
type judged struct {
	cleared bool    // one no longer waits for another machine
	turned  bool    // it is judged otherwise than before
	tell    []*link // whose agents are to call, and be told
}

// follow does what follows. Call without mu.
func (h *Hub) follow(agent string, j judged) {
	for _, l := range j.tell {
		l.call()
	}
	if j.cleared {
		h.opts.Delivery.Hint(agent)
		h.opts.Delivery.Wake(agent)
	}
	if j.turned || j.cleared {
		h.observe(agent)
	}
	h.share(agent)
}

// judgeIdentity sets for each link of ep whether other machines hold the same
// identity. Call with mu held, then follow without.
func (h *Hub) judgeIdentity(agent string, ep *endpoint) (j judged) {
	now := time.Now()
	for _, l := range ep.links { // an answer is a sign of life
		l.mu.Lock()
		answered, who := l.answered, cmp.Or(l.who, nobody).Instance
		l.mu.Unlock()
		for _, c := range ep.copies {
			if answered && c.who.Instance == who {
				c.left, c.asked = false, time.Time{}
			}
		}
	}
	state := h.contention(ep, agent, now)
	for _, l := range ep.links {
		who, authed := l.presence()
		if !authed {
			continue
		}
		after := state
		if ep.shuns(who) {
			after = identityDuplicate
		}
		l.mu.Lock()
		before := l.identity
		l.identity = after
		if after == identitySole {
			l.challenged, l.answered, l.lives = time.Time{}, false, false
		}
		l.mu.Unlock()
		if before == after {
			continue
		}
		j.cleared = j.cleared || after == identitySole
		if before == identityDuplicate && after == identitySole { // it still says that it is one of several
			j.tell = append(j.tell, l)
		}
		if after == identityDuplicate {
			l.log().Warn("two living machines hold one identity: nothing is delivered on this link",
				"verdict", selfcheck.CodeRouteDuplicate, "hostname", clip(who.Hostname), "fingerprint", clip(who.Fingerprint))
			j.tell = append(j.tell, l)
		}
	}
	if ep.state != state {
		j.cleared = j.cleared || state == identitySole
		ep.state, j.turned = state, true
	}
	return j
}
