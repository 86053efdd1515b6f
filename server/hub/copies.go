package hub

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"gururmm/operator"
	"gururmm/selfcheck"
	"gururmm/server/store"
	"gururmm/wire"
)

const (
	// maxCopies bounds the copies of one identity that are remembered.
	maxCopies = 8
	// inFlight is how long a request of a guardian that has ended may still be on
	// its way after its successor's first.
	inFlight = 2 * time.Second
	// succession is how long the worker of a guardian that was killed may keep its link
	// while it ends its jobs, though the next guardian of that boot calls already.
	succession = 15 * time.Second
	// aloneAfterMin bounds from below how long one of two machines must be silent
	// before the other counts as alone; else it is one and a half beacons of an ill
	// agent, which both are while they are told that they are two.
	aloneAfterMin = 5 * time.Second
	// alternateFor is how long two machines that were seen in turns, never at once,
	// are taken for two without being heard in turns again.
	alternateFor = 24 * time.Hour
	// reenrollEvery spaces the orders to take a new identity: each carries a fresh token.
	reenrollEvery = 30 * time.Second
	// maxCalls bounds the calls to one that does not come for that order, each after
	// twice the time of the one before, at most callsApart: then its own beacons
	// bring it, as long as its second door lets it.
	maxCalls   = 8
	callsApart = 15 * time.Minute
)

// sighting is one copy of an identity as this process has heard it.
type sighting struct {
	who       *wire.Copy // never changed
	since, at time.Time  // first and last heard, by either door
	// first and last are the same as places in the order of all that was heard of
	// the identity: two signs may come within one tick of the clock.
	first, last uint64
	door        wire.Channel
	addr        string
	asked       time.Time // its poll was ended to see whether it comes back; zero: it was not
	left        bool      // it was asked, and did not answer
	told        bool      // by another node; this one has not heard it itself
	linked      time.Time // when it first had a link; zero: it had none
	// beside is the last proof, as a place in the same order, that it lives at once with
	// another one of its boot; 0: none.
	beside  uint64
	ordered selfcheck.Instant // to take a new identity; zero: never
	open    string            // the other node at which it has a link; "": at none
	calls   int               // by its link, to come for that order
	callAt  selfcheck.Instant // not before
}

// wasOrdered reports whether it was, not long before now.
func (c *sighting) wasOrdered(now time.Time) bool {
	return !c.ordered.IsZero() && selfcheck.At(now).Sub(c.ordered) < reenrollEvery
}

// Load takes up the operators' words on duplicates and quarantines; call it before the hub is used.
func (h *Hub) Load(ctx context.Context) error {
	all, err := h.opts.Store.Resolutions(ctx, "")
	if err != nil {
		return fmt.Errorf("resolutions of duplicates: %w", err)
	}
	agents, err := h.opts.Store.Agents(ctx)
	if err != nil {
		return fmt.Errorf("quarantines: %w", err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, ep := range h.agents { // a node that joins anew
		ep.resolved, ep.quarantined = nil, false
	}
	for _, r := range all {
		ep := h.endpoint(r.Agent)
		ep.resolved = append(ep.resolved, r)
	}
	for _, a := range agents {
		if a.Quarantined {
			h.endpoint(a.ID).quarantined = true
		}
	}
	return nil
}

// Called takes in that a copy of agent calls by the second door.
func (h *Hub) Called(agent string, who wire.Copy, addr string, at time.Time) {
	if !who.Valid() { // an agent too old to say which copy it is: only what the others tell counts
		return
	}
	h.mu.Lock()
	ep := h.endpoint(agent)
	_, challenged := h.hear(ep, agent, &who, wire.ChannelOOB, addr, at)
	ep.here(who)
	j := h.judgeIdentity(agent, ep)
	several := ep.state != identitySole
	h.mu.Unlock()
	if challenged != nil || several && j.turned { // polls of others come back at once, if they live
		h.challenge(agent, challenged, at)
	}
	h.follow(agent, j)
	h.observe(agent)
}

// Alone reports whether what waits for agent may be handed to this copy of it: it is
// the only one that can be meant. Else it is nobody's for now. To ask is no sign of life:
// a poll may hang on a connection that is dead.
func (h *Hub) Alone(agent string, who wire.Copy) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	ep := h.endpoint(agent)
	for _, v := range ep.elsewhere {
		if v.Identity != identitySole && len(v.Links) > 0 {
			return false
		}
	}
	return !ep.shuns(who) && h.contention(ep, agent, time.Now()) == identitySole
}

// Reenroll gives the resolution by which a copy that has called is to take a new
// identity now; nil: it is not. The order is due once in a while only.
func (h *Hub) Reenroll(agent string, who wire.Copy) *store.Resolution {
	now := time.Now()
	h.mu.Lock()
	defer h.mu.Unlock()
	ep := h.endpoint(agent)
	r := ep.other(who)
	i := slices.IndexFunc(ep.copies, func(c *sighting) bool { return c.who.Instance == who.Instance })
	if r == nil || r.DoneAt != nil || i < 0 || ep.copies[i].wasOrdered(now) {
		return nil
	}
	ep.copies[i].ordered = selfcheck.At(now)
	return r
}

// hear notes a sign of life of a copy. If it is new, or was silent for long, the
// links of other copies are to be asked whether they live. Call with mu held.
func (h *Hub) hear(ep *endpoint, agent string, who *wire.Copy, door wire.Channel, addr string, at time.Time) (c *sighting, challenged []*link) {
	window := h.aloneAfter(agent)
	i := slices.IndexFunc(ep.copies, func(c *sighting) bool { return c.who.Instance == who.Instance })
	fresh := i < 0
	ep.signs++
	if fresh {
		ep.makeRoom()
		c = &sighting{who: who, since: at, at: at, first: ep.signs}
		for _, o := range ep.copies {
			o.asked, o.left = at, false
		}
		ep.copies = append(ep.copies, c)
	} else {
		c = ep.copies[i]
		for _, o := range ep.copies {
			// It returns after another was heard, and the two do not overlap.
			if o != c && !ep.shuns(*o.who) && !ep.shuns(*who) && o.at.After(c.at) && at.Sub(o.at) >= window && o.at.Sub(c.at) >= inFlight {
				ep.alternated = selfcheck.At(time.Now())
			}
		}
		fresh = at.Sub(c.at) >= window
	}
	if at.After(c.at) || c.addr == "" {
		c.at, c.addr = at, addr
	}
	c.door, c.left, c.asked, c.last = door, false, time.Time{}, ep.signs
	if len(who.Before) > 0 || len(c.who.Before) == 0 {
		c.who = who
	}
	if !fresh || ep.shuns(*who) {
		return c, nil
	}
	for _, l := range ep.links {
		if other, authed := l.presence(); authed && other.Instance != who.Instance && !ep.shuns(other) {
			l.doubt(at)
			challenged = append(challenged, l)
		}
	}
	return c, challenged
}

// makeRoom forgets the copy that was silent for longest.
func (ep *endpoint) makeRoom() {
	if len(ep.copies) < maxCopies {
		return
	}
	oldest := slices.MinFunc(ep.copies, func(a, b *sighting) int { return a.at.Compare(b.at) })
	ep.copies = slices.DeleteFunc(ep.copies, func(c *sighting) bool { return c == oldest })
}

// doubt has the link count for nothing until it answers.
func (l *link) doubt(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.challenged, l.answered, l.lives = now, false, false
}

// challenge asks links in doubt whether they live, and polls to come back at once.
func (h *Hub) challenge(agent string, links []*link, now time.Time) {
	for _, l := range links {
		l.conn.Ping(true)
		h.wheel.atLatest(l, now.Add(challengeFor))
	}
	h.opts.Delivery.Wake(agent)
}

// aloneAfter is how long a copy must be silent to count as gone.
func (h *Hub) aloneAfter(agent string) time.Duration {
	return max(aloneAfterMin, ms(h.opts.Policy(agent).WithDefaults().BeaconIllMS)*3/2)
}

// contention says whether one machine alone holds the identity at now. Those that
// an operator has told apart from it don't count. Call with mu held.
func (h *Hub) contention(ep *endpoint, agent string, now time.Time) identity {
	var all []*sighting
	for _, c := range ep.copies {
		if !ep.shuns(*c.who) {
			all = append(all, c)
		}
	}
	if len(all) < 2 {
		return identitySole
	}
	open, doubted := map[string]bool{}, map[string]bool{} // instances with a link, and with one that has not answered yet
	for _, l := range ep.links {                          // an open link that is not in doubt speaks for its copy
		who, authed := l.presence()
		i := slices.IndexFunc(all, func(c *sighting) bool { return c.who.Instance == who.Instance })
		if !authed || i < 0 {
			continue
		}
		l.mu.Lock()
		sure, lives, asked := l.challenged.IsZero() || l.answered, l.lives, l.challenged
		l.mu.Unlock()
		c := all[i]
		open[who.Instance], doubted[who.Instance] = true, doubted[who.Instance] || !sure
		if sure && !c.succeeded(all, now) {
			ep.signs++
			c.at, c.last = now, ep.signs
		}
		for _, o := range all {
			if lives && o.tookPlace(c) && !o.linked.IsZero() && !asked.Before(o.linked) {
				ep.signs++
				c.at, c.last, c.beside, o.beside = now, ep.signs, ep.signs, ep.signs
			}
		}
	}
	newest := all[len(all)-1] // first heard last
	for _, c := range all {   // a link at another node speaks for its copy once that node says so
		if c.open != "" {
			open[c.who.Instance] = true
			doubted[c.who.Instance] = doubted[c.who.Instance] || c != newest && c.at.Before(newest.since)
		}
	}
	window, state := h.aloneAfter(agent), identitySole
	for _, c := range all {
		if c == newest {
			continue
		}
		sameBoot, slack := c.who.SameBoot(*newest.who), time.Duration(0)
		if sameBoot {
			slack = inFlight
		}
		recent := now.Sub(c.at) < window && now.Sub(newest.at) < window
		returned := c.last > newest.first
		switch {
		case recent && (returned && c.at.Sub(newest.since) >= slack || c.beside > newest.first):
			return identityDuplicate
		case ep.inTurns(now) && now.Sub(c.at) < alternateFor && now.Sub(newest.at) < alternateFor:
			return identityDuplicate
		case sameBoot && (open[c.who.Instance] || recent && (c.beside > 0 || returned && now.Sub(c.at) < challengeFor || ep.polls(c) && now.Sub(c.asked) < inFlight)):
			// A successor, or the same disk copied: its worker's link ends, or its guardian calls again.
			// Of two that were proven a third one takes the place of one alone.
			state = identityContested
		case c.left, sameBoot:
			// gone, or the same guardian's place taken by its successor
		case doubted[c.who.Instance]:
			state = identityContested // its link ends, or it is heard
		case recent && (now.Sub(c.asked) < challengeFor || c.who.Fingerprint != newest.who.Fingerprint):
			// It may answer yet; and who has another fingerprint is no return of the same machine.
			state = identityContested
		}
	}
	return state
}

// tookPlace reports whether o may be c's successor on the same boot.
func (o *sighting) tookPlace(c *sighting) bool {
	return o.first > c.first && o.who.SameBoot(*c.who)
}

// succeeded reports whether a guardian of the same boot took c's place only just now, and
// its worker waits for c's: then a link of c is that of a worker which outlives its guardian
// for a moment. Two workers of one state directory never have a link at once.
func (c *sighting) succeeded(all []*sighting, now time.Time) bool {
	return slices.ContainsFunc(all, func(o *sighting) bool {
		return o.tookPlace(c) && o.linked.IsZero() && now.Sub(o.since) < succession
	})
}

// inTurns reports whether copies were heard in turns not long before now. Call with mu held.
func (ep *endpoint) inTurns(now time.Time) bool {
	return !ep.alternated.IsZero() && selfcheck.At(now).Sub(ep.alternated) < alternateFor
}

// polls reports whether the last sign of c was a call by the second door, while the agent
// asks for its commands there. Call with mu held.
func (ep *endpoint) polls(c *sighting) bool {
	return c.door == wire.ChannelOOB && !c.left && !ep.deliverAt.IsZero()
}

// linked reports whether a copy has an open link. Call with mu held.
func (h *Hub) linked(ep *endpoint, c *sighting) bool {
	return slices.ContainsFunc(ep.links, func(l *link) bool {
		who, authed := l.presence()
		return authed && who.Instance == c.who.Instance
	})
}

// here notes that a copy was heard by this very node. Call with mu held.
func (ep *endpoint) here(who wire.Copy) {
	for _, c := range ep.copies {
		if c.who.Instance == who.Instance {
			c.told = false
		}
	}
}

// ended takes in that a link has: unless its copy also calls by the second door,
// it has left, as far as can be told from here. Call with mu held.
func (ep *endpoint) ended(l *link) {
	l.mu.Lock()
	instance, silent := cmp.Or(l.who, nobody).Instance, !l.challenged.IsZero() && !l.answered
	l.mu.Unlock()
	for _, c := range ep.copies {
		if c.who.Instance == instance && (c.door == wire.ChannelLink || silent && c.at.Before(l.challenged)) {
			c.left = true
		}
	}
}

// other gives the resolution by which who is not the machine that keeps the identity; nil: none.
func (ep *endpoint) other(who wire.Copy) *store.Resolution {
	var since time.Time
	for _, c := range ep.copies {
		if c.who.Instance == who.Instance {
			since = c.since.Truncate(time.Microsecond) // as exactly as the store keeps times
		}
	}
	for _, r := range slices.Backward(ep.resolved) {
		// Once that machine has left, who comes anew with its looks is to be asked again.
		left := r.DoneAt != nil && (since.IsZero() || since.After(*r.DoneAt)) && who.Instance != r.Other.Instance
		if !left && who.Which(r.Kept, r.Other) == 2 {
			return &r
		}
	}
	return nil
}

func (ep *endpoint) shuns(who wire.Copy) bool { return ep.other(who) != nil }

// ErrNoCopy: no machine of that instance has been heard.
var ErrNoCopy = errors.New("no machine with this identity is known by that instance")

// ErrSoleCopy: there is nothing to resolve.
var ErrSoleCopy = errors.New("there is nothing to resolve: only one machine holds this identity")

// Split tells which copies of agent are not the one that keep names, by its
// instance or the beginning of it.
func (h *Hub) Split(agent, keep string) (kept wire.Copy, others []wire.Copy, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	ep, now := h.endpoint(agent), time.Now()
	var fits []*sighting
	for _, c := range ep.copies {
		if ep.became(*c.who) != nil {
			continue
		}
		if c.who.Instance == keep {
			fits = []*sighting{c}
			break
		}
		if len(keep) >= store.MinPrefix && strings.HasPrefix(c.who.Instance, keep) {
			fits = append(fits, c)
		}
	}
	if len(fits) != 1 {
		return kept, nil, ErrNoCopy
	}
	kept = *fits[0].who
	for _, c := range ep.copies {
		// Ends of the kept machine's own past are not machines.
		past := slices.Contains(kept.Before, c.who.Instance) && (c.left || now.Sub(c.at) >= h.aloneAfter(agent))
		if c.who.Instance != kept.Instance && !past && !c.superseded(ep, now) && ep.became(*c.who) == nil {
			others = append(others, *c.who)
		}
	}
	if len(others) == 0 {
		return kept, nil, ErrSoleCopy
	}
	return kept, others, nil
}

// superseded reports whether a later guardian start of the same machine took c's place. Of
// two that lived at once, it was the one that comes first in its past.
func (c *sighting) superseded(ep *endpoint, now time.Time) bool {
	return now.Sub(c.at) > inFlight && slices.ContainsFunc(ep.copies, func(o *sighting) bool {
		if o == c || o.first <= c.first || c.at.Sub(o.since) > inFlight {
			return false
		}
		past := slices.Contains(o.who.Before, c.who.Instance)
		if c.beside > 0 {
			return past && o.who.Before[0] == c.who.Instance
		}
		return o.who.SameBoot(*c.who) || past && o.who.Fingerprint == c.who.Fingerprint
	})
}

// became gives the resolution by which the machine of who has taken another identity, or
// did so in a later start of it; nil: it has not.
func (ep *endpoint) became(who wire.Copy) *store.Resolution {
	if r := ep.other(who); r != nil && r.DoneAt != nil {
		return r
	}
	for _, r := range slices.Backward(ep.resolved) {
		if r.DoneAt == nil {
			continue
		}
		for _, past := range r.Other.Before { // newest first; from the image on it is both machines'
			if past == r.Kept.Instance || slices.Contains(r.Kept.Before, past) {
				break
			}
			if past == who.Instance {
				return &r
			}
		}
	}
	return nil
}

// Resolved puts an operator's word on duplicates of agent in force: all of them,
// oldest first, as stored. It calls the machines that are to act on it.
func (h *Hub) Resolved(agent string, all []store.Resolution) {
	h.mu.Lock()
	ep := h.endpoint(agent)
	ep.resolved = all
	ep.alternated = 0
	for _, c := range ep.copies {
		c.calls, c.callAt, c.beside = 0, 0, 0
	}
	j := h.judgeIdentity(agent, ep)
	var others []*link
	for _, l := range ep.links {
		if who, authed := l.presence(); authed && ep.shuns(who) {
			others = append(others, l)
		}
	}
	h.mu.Unlock()
	for _, l := range others {
		l.call()
	}
	j.cleared = true
	h.follow(agent, j)
}

// copies tells of each machine that holds the identity; nil while there is one
// alone and nobody had to choose. Call with mu held.
func (h *Hub) copies(ep *endpoint, agent string, now time.Time) (out []operator.Copy) {
	state := h.contention(ep, agent, now)
	for _, c := range ep.copies {
		v := operator.Copy{
			Copy: *c.who, Since: c.since.UTC(), LastSeen: c.at.UTC(), Door: c.door, Addr: c.addr,
			Linked: h.linked(ep, c) || c.open != "",
		}
		became := ep.became(*c.who)
		switch {
		case became != nil:
			v.Standing, v.NewAgent = operator.CopyLeft, became.NewAgent
		case ep.shuns(*c.who):
			v.Standing = operator.CopyLeaving
		case c.superseded(ep, now), c.left, state == identitySole && now.Sub(c.at) >= h.aloneAfter(agent):
			v.Standing = operator.CopyGone
		case state == identitySole:
			v.Standing = operator.CopyAlone
		case state == identityContested:
			v.Standing = operator.CopyAsked
		default:
			v.Standing = operator.CopyRival
		}
		for _, r := range ep.resolved {
			if v.Standing == operator.CopyAlone && c.who.Which(r.Kept, r.Other) == 1 {
				v.Standing = operator.CopyKept
			}
		}
		out = append(out, v)
	}
	several := slices.ContainsFunc(out, func(c operator.Copy) bool { return c.Standing != operator.CopyGone && c.Standing != operator.CopyAlone })
	if !several && len(ep.resolved) == 0 {
		return nil
	}
	for _, r := range ep.resolved { // machines that have not been heard since
		heard := slices.ContainsFunc(out, func(c operator.Copy) bool { return c.Which(r.Kept, r.Other) == 2 })
		if r.DoneAt == nil && !heard && ep.became(r.Other) == nil {
			out = append(out, operator.Copy{Copy: r.Other, Standing: operator.CopyLeaving})
		}
	}
	return out
}

// remind asks agents with a link that are to take a new identity to call for the
// order: their link is well, so they would not call by themselves for long. One that
// does not come, or can't carry it out, is not called for ever: see maxCalls.
func (h *Hub) remind(now time.Time) {
	var links []*link
	h.mu.Lock()
	for _, ep := range h.agents {
		if len(ep.resolved) == 0 {
			continue
		}
		for _, c := range ep.copies {
			r := ep.other(*c.who)
			if r == nil || r.DoneAt != nil || c.wasOrdered(now) || c.calls >= maxCalls || selfcheck.At(now) < c.callAt {
				continue
			}
			called := len(links)
			for _, l := range ep.links {
				if who, authed := l.presence(); authed && who.Instance == c.who.Instance && l.verified() {
					links = append(links, l)
				}
			}
			if len(links) > called {
				c.callAt = selfcheck.At(now).Add(min(reenrollEvery<<c.calls, callsApart))
				c.calls++
			}
		}
	}
	h.mu.Unlock()
	for _, l := range links {
		l.call()
	}
}

// call asks the link's agent to come by the second door now.
func (l *link) call() {
	env, err := wire.Seal(wire.TypeCall, struct{}{})
	if err == nil && l.Calls() {
		err = l.Send(env, func(uint64, time.Time, error) {})
	}
	if err != nil {
		l.log().Info("call not queued", "reason", err)
	}
}
