package hub

import (
	"time"

	"github.com/gorilla/websocket"

	"gururmm/selfcheck"
	"gururmm/wire"
)

// same reports whether two links are of one copy of the agent: the same
// instance, or the same boot of the same machine.
func same(a, b wire.Presence) bool {
	return a.Instance == b.Instance || a.BootID != "" && a.BootID == b.BootID && a.Fingerprint == b.Fingerprint
}

// identify settles who holds the identity now that l has said which copy it
// is: of links of one copy only the newest stays; links of other machines are
// asked whether they live.
func (h *Hub) identify(l *link) {
	now := time.Now()
	var replaced, asked []*link
	h.mu.Lock()
	ep := h.endpoint(l.agent)
	for _, o := range ep.links {
		who, authed := o.presence()
		if o == l || !authed {
			continue
		}
		newer, older := l, o
		if o.generation > l.generation {
			newer, older = o, l
		}
		if same(l.who, who) {
			replaced = append(replaced, older)
			continue
		}
		older.mu.Lock()
		older.challenged, older.answered = now, false
		older.mu.Unlock()
		asked = append(asked, older)
		l.log.Warn("another machine holds the same identity", "older_generation", older.generation, "newer_generation", newer.generation)
	}
	cleared := h.judgeIdentity(ep)
	h.mu.Unlock()

	for _, o := range replaced {
		o.end(websocket.CloseServiceRestart, "", errReplaced)
	}
	for _, o := range asked {
		o.conn.Ping(true)
		h.wheel.atLatest(o, now.Add(challengeFor))
	}
	if cleared {
		h.opts.Delivery.Hint(l.agent)
	}
}

func (l *link) presence() (who wire.Presence, authed bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.who, l.authed && !l.gone
}

// rejudge looks again at who holds the identity, after an answer.
func (h *Hub) rejudge(agent string) {
	h.mu.Lock()
	cleared := h.judgeIdentity(h.endpoint(agent))
	h.mu.Unlock()
	if cleared {
		h.opts.Delivery.Hint(agent)
	}
}

// judgeIdentity sets for each link of ep whether other machines hold the same
// identity; cleared tells that one no longer waits for that. Call with mu held.
func (h *Hub) judgeIdentity(ep *endpoint) (cleared bool) {
	var links []*link
	several, alive := false, false
	for _, l := range ep.links {
		who, authed := l.presence()
		if !authed {
			continue
		}
		if len(links) > 0 {
			first, _ := links[0].presence()
			several = several || !same(first, who)
		}
		links = append(links, l)
	}
	for i, l := range links {
		l.mu.Lock()
		if i < len(links)-1 && l.answered {
			alive = true
		}
		l.mu.Unlock()
	}
	for i, l := range links {
		l.mu.Lock()
		before := l.identity
		switch newest := i == len(links)-1; {
		case !several:
			l.identity = identitySole
			l.challenged, l.answered = time.Time{}, false
		case alive && (newest || l.answered):
			l.identity = identityDuplicate
		default:
			l.identity = identityContested
		}
		after := l.identity
		l.mu.Unlock()
		if before != after {
			cleared = cleared || after == identitySole
			if after == identityDuplicate {
				l.log.Warn("two living machines hold one identity: nothing is delivered on either link",
					"verdict", selfcheck.CodeRouteDuplicate, "hostname", clip(l.who.Platform.Hostname), "fingerprint", clip(l.who.Fingerprint))
			}
		}
	}
	return cleared
}
