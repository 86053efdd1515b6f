package replay

import (
	"cmp"
	"slices"
	"time"
)

// What the case says of both programs.
const (
	pingEvery      = 30 * time.Second // the server, on each link
	silentFor      = 90 * time.Second // the agent gives a link up
	heartbeatEvery = 2 * time.Minute
	metricsEvery   = 30 * time.Second // "more often"
	reapEvery      = time.Minute
	unackedFor     = time.Minute // then a command is offered again
	mostOffers     = 10
	evictAfter     = 3 // offers, once that was put in
)

// What it does not say, and the model takes.
const (
	latency = 20 * time.Millisecond
	// redial is how long the agent took to come back, by the case's log.
	redial = 12 * time.Second
	// graceFor is for how long a link may be away before the server writes an event. The
	// log speaks of a grace without its length.
	graceFor   = 30 * time.Second
	queueHolds = 64       // messages, of each queue in memory
	wireHolds  = 64 << 10 // bytes on the way, in buffers of both ends and of the box
	runTakes   = 200 * time.Millisecond
	ackTimeout = 10 * time.Minute // of a command that was acknowledged, without a result
)

type kind uint8

const (
	text kind = iota
	ping
	pong
	closing
)

// frame is one WebSocket frame on the way.
type frame struct {
	kind kind
	size int
	what string // of a text: auth, auth_ack, config, command, heartbeat, metrics, ack, result
	id   int    // of a command
	bad  bool   // it can't be read any more
}

// lane is one direction of a link, through the box.
type lane struct {
	inFlight []flying
	bytes    int
	texts    int  // that came to the box
	dead     bool // nothing passes any more
	mute     bool // no text passes any more
	closed   bool // by the reading end: a write fails
}

type flying struct {
	frame
	at time.Duration
}

// box is what stands on the way: what it makes of a frame (none: it swallows it), and for
// how long it holds it. n counts the texts of this lane.
type box func(l *link, ln *lane, f frame) (out *frame, hold time.Duration)

// link is one WebSocket.
type link struct {
	n        int // of the agent's, from 1
	agent    *agent
	down, up lane
	queue    []frame // the server's, in memory
	pongs    []time.Duration
	over     bool // at the server
}

// put writes f; it waits while the way is full, and tells whether that worked.
func (w *world) put(t *task, l *link, ln *lane, through box, f frame) bool {
	if ln.bytes >= wireHolds {
		t.until(forever, func() bool { return ln.bytes < wireHolds || ln.closed })
	}
	if ln.closed {
		return false
	}
	if f.kind == text {
		ln.texts++
	}
	hold := time.Duration(0)
	if through != nil && l.agent.ill {
		out, h := through(l, ln, f)
		if out == nil {
			return true // the box took it
		}
		f, hold = *out, h
	}
	if ln.dead || ln.mute && f.kind == text {
		return true
	}
	at := w.now + latency + hold
	ln.inFlight = append(ln.inFlight, flying{f, at})
	slices.SortStableFunc(ln.inFlight, func(a, b flying) int { return cmp.Compare(a.at, b.at) }) // held texts are overtaken
	ln.bytes += f.size
	return true
}

func (w *world) arrived(ln *lane) bool { return ln.due() <= w.now }

// await waits for the next frame of ln, no longer than to a moment and not once stop says
// so, and tells whether it is there.
func (w *world) await(t *task, ln *lane, limit time.Duration, stop func() bool) bool {
	for !w.arrived(ln) && !stop() && w.now < limit {
		head := ln.due()
		t.until(min(limit, head), func() bool { return ln.due() != head || stop() })
	}
	return w.arrived(ln)
}

// due is when the next frame of ln arrives.
func (ln *lane) due() time.Duration {
	if len(ln.inFlight) == 0 {
		return forever
	}
	return ln.inFlight[0].at
}

func (ln *lane) take() frame {
	f := ln.inFlight[0].frame
	ln.inFlight = ln.inFlight[1:]
	ln.bytes -= f.size
	return f
}

// state of a command in the server's database.
type state string

const (
	pending   state = "pending"
	running   state = "running"
	completed state = "completed"
	failed    state = "failed"
	cancelled state = "cancelled"
)

type command struct {
	id, size int
	agent    string
	state    state
	offers   int
	taken    int // offers that a queue took
	given    time.Duration
	offered  time.Duration
	acked    time.Duration // 0: never
	ended    time.Duration
	ran      bool // at the agent, whether anybody knows or not
}

// event of an agent's presence.
type event struct {
	at     time.Duration
	online bool
}

// world is one server, its agents and the way between them.
type world struct {
	*clock
	commands []*command
	register map[string]*link
	agents   map[string]*agent
	events   map[string][]event
	online   map[string]bool
	seen     map[string][]time.Duration // texts of an agent
	heard    map[string][]time.Duration // its heartbeats
	evicting bool
	evicted  map[string][]time.Duration
	m        *mechanism
}

func newWorld(m *mechanism) *world {
	return &world{
		clock: newClock(), register: map[string]*link{}, agents: map[string]*agent{}, events: map[string][]event{}, online: map[string]bool{},
		seen: map[string][]time.Duration{}, heard: map[string][]time.Duration{}, evicted: map[string][]time.Duration{}, m: m,
	}
}

// order gives a command, which is offered at once.
func (w *world) order(agent string, size int) *command {
	c := &command{id: len(w.commands) + 1, size: size, agent: agent, state: pending, given: w.now}
	w.commands = append(w.commands, c)
	w.offer(c)
	return c
}

// offer takes c for the registered link's queue.
func (w *world) offer(c *command) {
	if w.m.unoffered != nil && w.m.unoffered(w, c) {
		return
	}
	c.state, c.offered = running, w.now
	c.offers++
	l := w.register[c.agent]
	if l == nil || len(l.queue) >= queueHolds {
		return // it failed to enqueue; the database says running
	}
	c.taken++
	l.queue = append(l.queue, frame{kind: text, size: c.size, what: "command", id: c.id})
}

func (w *world) offerPending(agent string) {
	for _, c := range w.commands {
		if c.agent == agent && c.state == pending {
			w.offer(c)
		}
	}
}

func (w *world) cancelAll(agent string) {
	for _, c := range w.commands {
		if c.agent == agent && (c.state == pending || c.state == running) {
			c.state, c.ended = cancelled, w.now
		}
	}
}

// reap is the server's task that looks over what was not acknowledged.
func (w *world) reap(t *task) {
	for {
		t.sleep(reapEvery)
		for _, c := range w.commands {
			switch {
			case c.state != running:
			case c.acked > 0:
				if w.now-c.acked > ackTimeout {
					w.fail(c)
				}
			case w.now-c.offered < unackedFor:
			case w.m.olderRules != nil && w.m.olderRules(c): // such an agent has no acknowledgements to wait for
				w.fail(c)
			case c.offers >= mostOffers:
				w.fail(c)
			default:
				c.state = pending
				if l := w.register[c.agent]; w.evicting && c.offers >= evictAfter && l != nil {
					w.evicted[c.agent] = append(w.evicted[c.agent], w.now)
					w.hangUp(l)
				}
			}
		}
	}
}

func (w *world) fail(c *command) { c.state, c.ended = failed, w.now }

// hangUp ends a link at the server: a close frame goes down behind what is on the way, and
// what the agent writes from now on fails.
func (w *world) hangUp(l *link) {
	l.over = true
	l.up.closed = true
	if !l.down.dead {
		l.down.inFlight = append(l.down.inFlight, flying{frame{kind: closing}, max(w.now+latency, lastAt(l.down.inFlight))})
	}
}

func lastAt(list []flying) time.Duration {
	if len(list) == 0 {
		return 0
	}
	return list[len(list)-1].at
}

// serve is the server's part of one link: what receives, and beside it what sends.
func (w *world) serve(t *task, l *link) {
	name := l.agent.name
	var sender *task
	cleanUp := func() {
		l.over = true
		if sender != nil {
			sender.abort()
		}
		if w.register[name] == l || w.m.cleansUpByName && l.agent.ill {
			delete(w.register, name)
			w.spawn(func(t *task) {
				t.sleep(graceFor)
				if w.register[name] == nil && w.online[name] {
					w.presence(name, false)
				}
			})
		}
	}
	for {
		if !w.await(t, &l.up, forever, func() bool { return l.over }) {
			cleanUp()
			return
		}
		f := l.up.take()
		switch {
		case f.kind == closing:
			cleanUp()
			return
		case f.kind == pong:
			l.pongs = append(l.pongs, w.now) // the described server looks at none of them
			continue
		case f.bad:
			continue
		}
		w.seen[name] = append(w.seen[name], w.now)
		switch f.what {
		case "auth":
			if old := w.register[name]; old == nil || !w.m.keepsOlderLink || !l.agent.ill {
				w.register[name] = l
				if old != nil && old != l {
					w.hangUp(old)
				}
			}
			if !w.online[name] {
				w.presence(name, true)
			}
			sender = w.spawn(func(t *task) { w.send(t, l) })
			l.queue = append(l.queue, frame{kind: text, size: 120, what: "auth_ack"}, frame{kind: text, size: 3 << 10, what: "config"})
			for _, c := range w.commands { // what an ended link left
				if c.agent == name && c.state == running && c.acked == 0 {
					c.state = pending
				}
			}
			w.offerPending(name)
		case "heartbeat":
			w.heard[name] = append(w.heard[name], w.now)
			w.offerPending(name)
		case "ack":
			if c := w.commands[f.id-1]; c.acked == 0 {
				c.acked = w.now
			}
		case "result":
			if c := w.commands[f.id-1]; c.state == running || c.state == pending {
				c.state, c.ended = completed, w.now
			}
		}
	}
}

func (w *world) presence(name string, online bool) {
	w.online[name] = online
	w.events[name] = append(w.events[name], event{w.now, online})
}

// send is the server's task that writes a link: what waits, and a ping every 30 s.
func (w *world) send(t *task, l *link) {
	next := w.now
	for {
		f := frame{kind: ping, size: 2}
		if t.until(next, func() bool { return len(l.queue) > 0 }) {
			f = l.queue[0]
			l.queue = l.queue[1:]
		} else {
			next = w.now + pingEvery
		}
		if w.m.holdsSender != nil && w.m.holdsSender(w, l, f) {
			return // it stands in a write for good
		}
		if l.over || !w.put(t, l, &l.down, w.m.down, f) {
			return
		}
	}
}
